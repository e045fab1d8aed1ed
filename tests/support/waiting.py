"""Waiting in a coroutine: for a condition that tells nobody when it comes true, and for messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fabric_sdk.contracts.envelope import Message

T = TypeVar("T")


async def eventually(condition: Callable[[], object], *, seconds: float = 10.0, what: str = "the condition") -> None:
    """Return as soon as `condition` is true; fail after `seconds`. While it waits, the loop goes on."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for here sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true within {seconds} s") from None


async def until(
    look: Callable[[], Awaitable[T]], condition: Callable[[T], object], *, seconds: float = 15.0, what: str = "it"
) -> T:
    """What `look` finds, once it is as it should be; for what another process knows, and tells nobody of."""
    found: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while not condition(found := await look()):  # noqa: ASYNC110 - what is looked at tells nobody
                await asyncio.sleep(0.01)
            return found
    except TimeoutError:
        raise AssertionError(f"{what} did not become as it should within {seconds} s, but stayed {found}") from None


class Ear:
    """A receiver that keeps what it hears, and lets a test wait for it."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self._new = asyncio.Event()

    def __call__(self, message: Message) -> None:
        self.heard.append(message)
        self._new.set()

    @property
    def subjects(self) -> list[str]:
        """The subjects of all that was heard, in order."""
        return [message.subject for message in self.heard]

    @property
    def values(self) -> list[object]:
        """The bodies of all that was heard, in order."""
        return [message.body.value() for message in self.heard]

    async def wait(self, count: int = 1, *, seconds: float = 10.0) -> list[Message]:
        """All that was heard, once it is `count` messages or more."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.heard) < count:
                    self._new.clear()
                    await self._new.wait()
        except TimeoutError:
            raise AssertionError(f"heard {len(self.heard)} of {count} messages within {seconds} s") from None
        return self.heard
