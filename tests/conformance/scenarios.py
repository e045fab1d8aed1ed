"""What of the public suite this project passes: everything, scored or not, on the wire of three revisions."""

LEGS: dict[str, tuple[str, ...]] = {
    "2026-07-28": ("--requirements", "2026-07-28"),
    "2025-11-25": ("--requirements", "2025-11-25"),
    "2025-06-18": ("--suite", "all", "--spec-version", "2025-06-18"),
}
"""How the suite is asked for each: its own frozen sets, where it has them."""

AT_LEAST = {"2026-07-28": 50, "2025-11-25": 33, "2025-06-18": 27}
"""So many scenarios each leg has in the pinned release; a later one may add some, and none may be lost unnoticed."""

SKIPPED = {"tasks-status-notifications"}
"""Scenarios that check nothing yet, in the suite itself."""
