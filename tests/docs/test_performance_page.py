"""docs/performance.md names every benchmark there is, and the ratio that each has to show. Proves: no row."""

from __future__ import annotations

from docs.pages import codes, read, table
from fabric.bench.suite import BENCHMARKS, GOALS

ROWS = {
    codes(row["benchmark"])[0]: row
    for row in table(read("docs/performance.md"), "benchmark", "its floor", "at least", "seen")
}


def test_every_benchmark_is_there_in_its_order() -> None:
    assert list(ROWS) == list(BENCHMARKS)


def test_the_goals_are_those_that_the_command_prints() -> None:
    assert {name: float(row["at least"]) for name, row in ROWS.items() if row["at least"]} == GOALS
