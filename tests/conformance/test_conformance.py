"""The public MCP conformance suite passes against the gateway, on the wire of each revision.

Behind the gateway is a pool of worker processes that host `everything.py:server`. To see how the same scenarios fare
without the fabric: `python -m conformance.compare`.

Proves: TR-1, PT-3
"""

from collections.abc import Callable
from functools import cache

import pytest

from conformance.runner import Scenario, run
from conformance.scenarios import PROMISED

Report = Callable[[str], dict[str, Scenario]]


@pytest.fixture(scope="session")
def report_on(conformance_url: str) -> Report:
    """What the suite found on the wire of a revision; all its promised scenarios run when the first is asked for."""

    @cache
    def once(revision: str) -> dict[str, Scenario]:
        return run(conformance_url, revision, PROMISED[revision])

    return once


@pytest.mark.parametrize(
    ("revision", "scenario"),
    [
        pytest.param(revision, scenario, id=f"{revision}-{scenario}")
        for revision, scenarios in PROMISED.items()
        for scenario in scenarios
    ],
)
@pytest.mark.timeout(600)
def test_scenario(report_on: Report, revision: str, scenario: str) -> None:
    result = report_on(revision)[scenario]
    assert result.passed, "\n".join(str(check) for check in result.wrong or result.checks)
