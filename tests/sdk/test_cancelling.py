"""A task that misses a cancellation is cancelled again.

Proves: RT-6 (a stop ends, whatever a library does with a cancellation).
"""

from __future__ import annotations

import asyncio

import pytest

from fabric_sdk import cancelling
from fabric_sdk.cancelling import end

pytestmark = pytest.mark.anyio


async def test_a_cancellation_that_got_lost_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "_AGAIN_SECONDS", 0.01)
    missed = 0

    async def miss(most: int) -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if missed == most:
                    raise
                missed += 1

    task = asyncio.create_task(miss(3))
    await asyncio.sleep(0)
    await end([task])
    assert (task.cancelled(), missed) == (True, 3)


async def test_what_has_ended_is_left_alone() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    await end([task])
    await end([])
    assert isinstance(task.exception(), ValueError)
