"""Nothing accepted is lost and no key has two effects while nodes and workers are killed, frozen and stopped.

Proves: MB-2 (through retries, redelivery, worker and broker crashes), MB-3 (replicated over three nodes).
"""

from __future__ import annotations

import random

import pytest

from soak.soak import soak


@pytest.mark.timeout(420)
def test_a_minute_of_faults_loses_and_repeats_nothing() -> None:
    seed = random.randrange(10**6)
    figures = soak(60.0, seed)
    assert figures.is_well, f"seed {seed}: {figures}"
