"""A task beside the work ends when it is told to, and not before without a word.

Proves: CM-2 (what fails is told, and begins anew), RT-6 (a stop ends, whatever a library does with a cancellation).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from fabric_sdk import cancelling
from fabric_sdk.cancelling import end, keep_on, until

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


async def test_what_ends_by_itself_in_time_is_not_cancelled_and_what_refuses_is_left_behind() -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def refuse() -> None:
        while not done.is_set():
            with suppress(asyncio.CancelledError):
                await done.wait()

    asyncio.get_running_loop().call_later(0.01, go.set)
    quick, stubborn = asyncio.create_task(go.wait()), asyncio.create_task(refuse())
    await end([quick, stubborn], grace=0.1, patience=0.05)
    assert quick.result() is True
    assert not stubborn.done()
    done.set()
    await stubborn


async def test_what_fails_beside_the_work_is_told_and_begins_anew_until_it_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cancelling, "_ANEW_SECONDS", 0.01)
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise KeyError("moon")

    with caplog.at_level(logging.ERROR):
        await keep_on(work, "watching the sky")
    assert runs == 3
    assert caplog.text.count("watching the sky failed; it begins anew") == 2
    assert "KeyError: 'moon'" in caplog.text


async def test_what_is_kept_on_ends_when_it_is_told_to() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    kept = keep_on(work, "waiting")
    await begun.wait()
    await end([kept])
    assert kept.cancelled()


async def test_what_ends_before_all_is_over_gives_what_it_gives() -> None:
    over = asyncio.Event()

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    async def fail() -> str:
        raise KeyError("moon")

    before = asyncio.all_tasks()
    assert await until(over, work(), "over") == "done"
    with pytest.raises(KeyError, match="moon"):
        await until(over, fail(), "over")
    assert asyncio.all_tasks() == before


async def test_what_goes_on_is_ended_once_all_is_over_and_when_nobody_waits_for_it() -> None:
    over, begun, ended = asyncio.Event(), asyncio.Event(), 0

    async def work() -> str:
        nonlocal ended
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1
        return "done"

    waiting = asyncio.create_task(until(over, work(), "over"))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == 1
    begun.clear()
    waiting = asyncio.create_task(until(over, work(), "over"))
    await begun.wait()
    over.set()
    assert await waiting == "over"
    assert ended == 2
