"""Many events at once, a few of a stream of them, and programs that take part."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from fabric_sdk import Event, Fabric
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import EVENTS
from fabric_sdk.patterns.event import Received

T = TypeVar("T")

_BATCH = 1000
_numbers = count()


async def take(events: AsyncGenerator[T], count: int, *, seconds: float = 20.0) -> list[T]:
    """The next `count` of `events`."""
    taken: list[T] = []
    async with asyncio.timeout(seconds):
        while len(taken) < count:
            taken.append(await anext(events))
    return taken


async def data(events: AsyncGenerator[Received], count: int, *, seconds: float = 20.0) -> list[Any]:
    """What the next `count` events say."""
    return [event.data for event in await take(events, count, seconds=seconds)]


class Program:
    """A Python program in a process of its own, which talks to the test in lines."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self._process = subprocess.Popen([sys.executable, str(path), *arguments], stdout=subprocess.PIPE, text=True)

    async def says(self) -> str:
        """The next line of its output."""
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it, if that was not done before, and let go."""
        with self._process:
            self._process.kill()


@contextmanager
def program(path: Path, *arguments: str) -> Generator[Program]:
    """A running program, until the end of the block."""
    running = Program(path, *arguments)
    try:
        yield running
    finally:
        running.close()


async def publish_all(fabric: Fabric, topic: str, values: Sequence[Any]) -> None:
    """Publish many events on one topic, in order."""
    await fabric.jetstream.ensure(EVENTS)
    for start in range(0, len(values), _BATCH):
        batch = values[start : start + _BATCH]
        events = [Event(topic, Body(value), id=f"{next(_numbers)}", source="/many") for value in batch]
        await fabric.jetstream.store_all([event.message() for event in events])
