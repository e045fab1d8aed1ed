"""`fabric bench`: each benchmark beside its floor."""

from __future__ import annotations


def bench() -> None:
    """Measure."""
