"""A blocked event loop is named when it goes on: for how long, and in whose code. Proves: CM-2."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

import pytest
from support.waiting import eventually

from fabric.pool.blocking import Blocking, place
from fabric_sdk.cancelling import end

pytestmark = pytest.mark.anyio


def forecast(seconds: float) -> None:
    """Block, in a library's code."""
    json.loads("{}", object_hook=lambda _: time.sleep(seconds))


async def test_it_says_how_long_and_in_which_function(caplog: pytest.LogCaptureFixture) -> None:
    watching = asyncio.create_task(Blocking().run())
    try:
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(0.3)
            forecast(0.5)  # busy, no more
            await asyncio.sleep(0.6)
            assert not caplog.records
            forecast(1.6)
            await eventually(lambda: caplog.records, what="a word about it")
        (record,) = caplog.records
        seconds = float(record.getMessage().partition("for ")[2].partition(" s")[0])
        assert 1.2 <= seconds <= 2.5
        assert "test_blocking.py, line" in record.getMessage()
    finally:
        await end([watching])


def test_a_place_is_the_innermost_of_the_author_s_own() -> None:
    def author() -> str:
        found = list[str]()
        json.loads("{}", object_hook=lambda _: found.append(place(sys._getframe().f_back)))  # pyright: ignore[reportPrivateUsage]
        return found[0]

    assert author().startswith("author (test_blocking.py, line ")
    assert place(None) == ""
