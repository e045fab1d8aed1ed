"""Pages that hang together: links lead somewhere, decisions are numbered.

Proves: no row.
"""

from __future__ import annotations

import pytest

from docs.pages import ROOT, links, read

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "adr").iterdir())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    lost = [link for link in links(read(page)) if not (ROOT / page).parent.joinpath(link).exists()]
    assert lost == [], f"{page} links to what is not there"


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:5] for path in DECISIONS] == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("number", range(1, len(DECISIONS) + 1))
def test_a_decision_says_its_number_and_its_status(number: int) -> None:
    heading, _, status, *_ = DECISIONS[number - 1].read_text(encoding="utf-8").splitlines()
    assert heading.startswith(f"# ADR {number}: ")
    assert status.startswith("Status: ")
