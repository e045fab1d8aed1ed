"""Many copies of one process: more of them, fewer, or all renewed one after the other.

Above: `fabric.node`, `fabric.pool`, the command line's `worker` and `gateway`. Below: `supervisor`. It refuses to know
when to scale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count, islice

from fabric.process.spec import ProcessSpec
from fabric.process.supervisor import Supervisor


class Copies:
    """Copies of one process under a supervisor, each with a number from 1; starts with none."""

    def __init__(self, supervisor: Supervisor, copy: Callable[[int], ProcessSpec]) -> None:
        """`copy` describes the copy of a number; the number has to be part of its name."""
        self._supervisor = supervisor
        self._copy = copy
        self._running: dict[int, str] = {}
        self._one_change = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the copies, in the order of their start."""
        return tuple(self._running.values())

    async def scale(self, copies: int) -> None:
        """Start or stop copies until there are so many; returns when the new are ready or the surplus has ended.

        The youngest go first. Raises ProcessStartError if a new copy fails to start; then none of the new remain.
        ValueError for less than none.
        """
        if copies < 0:
            raise ValueError(f"there cannot be {copies} copies")
        async with self._one_change:
            surplus = list(self._running)[copies:]
            if surplus:
                await self._remove(surplus)
            else:
                await self._add(copies - len(self._running))

    async def roll(self) -> None:
        """Replace every copy, one at a time, the new one ready before the old one is told to stop.

        Raises ProcessStartError at the first new copy that fails to start: it is dropped, and the copies not yet
        replaced go on, so that a broken change never leaves none.
        """
        async with self._one_change:
            for old in list(self._running):
                await self._add(1)
                await self._remove([old])

    async def _add(self, copies: int) -> None:
        # The lowest free numbers, so that numbers, and the log files named by them, do not grow with each roll.
        free = islice((number for number in count(1) if number not in self._running), copies)
        specs = {number: self._copy(number) for number in free}
        await self._supervisor.start(*specs.values())
        self._running |= {number: spec.name for number, spec in specs.items()}

    async def _remove(self, numbers: list[int]) -> None:
        await self._supervisor.remove(*(self._running[number] for number in numbers))
        for number in numbers:
            del self._running[number]
