"""The public MCP conformance suite passes against the gateway, every scenario of three legs, scored or not.

Behind the gateway is a pool of worker processes that host `everything.py:server`. To see how the same scenarios fare
without the fabric: `python -m conformance.compare`.

Proves: TR-1, PT-3
"""

import pytest

from conformance.runner import run
from conformance.scenarios import AT_LEAST, LEGS, SKIPPED


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.timeout(180)
def test_every_scenario_passes(conformance_url: str, leg: str) -> None:
    found = run(conformance_url, LEGS[leg])
    assert len(found) >= AT_LEAST[leg], sorted(found)
    wrong = [f"{each.name}: {check}" for each in found.values() for check in each.wrong]
    assert not wrong, "\n".join(wrong)
    assert {each.name for each in found.values() if each.skipped} <= SKIPPED
    assert [each.name for each in found.values() if not each.skipped and not each.passed] == []
