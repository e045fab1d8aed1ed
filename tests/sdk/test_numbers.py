"""Numbers that are none, or have no end, reach nobody: deadlines in addresses, progress. Proves: RT-1, PT-1."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from fabric_sdk.context import Context
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.scope import Scope


@pytest.mark.parametrize("digits", [16, 400, 5000])
def test_a_deadline_without_end_is_none(digits: int) -> None:
    assert subjects.due_of(f"fab.reply.c.{'9' * digits}.1") is None


def test_a_deadline_far_away_is_one() -> None:
    far = time.time() + 1000 * 365 * 86400
    assert subjects.due_of(subjects.reply("c", far, 1)) == pytest.approx(far)


async def test_progress_that_is_not_finite_is_dropped_and_hides_nothing_that_follows() -> None:
    heard: list[dict[str, Any]] = []

    async def emit(reply: str, kind: str, frame: dict[str, Any]) -> None:
        heard.append(frame)

    context = Context(Scope(deadline=math.inf), emit=emit)
    for progress in (1.0, math.nan, math.inf, -math.inf, 2.0, 1.5):
        await context.progress(progress, math.nan)
    await context.progress(3.0, 4.0)
    assert heard == [{"progress": 1.0}, {"progress": 2.0}, {"progress": 3.0, "total": 4.0}]
