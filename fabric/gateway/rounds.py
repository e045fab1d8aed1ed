"""Looks at things now and then, all of them in one go: a timer for each would be dear.

Above: `listen`. Below: asyncio. What is taken off before the next look costs two steps in a set, and no timer is set
while there is nothing to look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Rounds(Generic[T]):
    """Those that are looked at."""

    def __init__(self, seconds: float, look: Callable[[T, float], None]) -> None:
        """`look` is given each of them, and the loop's time, every so many seconds; it may take it off."""
        self._seconds = seconds
        self._look_at = look
        self._all: set[T] = set()
        self._walking = False

    def add(self, one: T) -> None:
        """Look at this one from the next round on."""
        self._all.add(one)
        if not self._walking:
            self._walking = True
            self._walk_later()

    def remove(self, one: T) -> None:
        """Leave this one alone."""
        self._all.discard(one)

    def _walk_later(self) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._walk)

    def _walk(self) -> None:
        now = asyncio.get_running_loop().time()
        for one in tuple(self._all):
            self._look_at(one, now)
        self._walking = bool(self._all)
        if self._walking:
            self._walk_later()
