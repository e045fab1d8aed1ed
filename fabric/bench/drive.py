"""Calls from this process, one after the other or many at once, counted or timed.

Above: `memory`, `calls`, `durable`. Below: `comparison`. A call returns whether its answer was right; one that was not,
or that raised, spoils the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from fabric.bench.comparison import BenchmarkFailed, Measure, Sample

Call = Callable[[], Awaitable[bool]]


@dataclass(slots=True)
class _Tally:
    """What came of the calls of one turn."""

    right: int = 0
    wrong: int = 0
    failure: Exception | None = None
    """The first, to show."""

    def check(self) -> None:
        if self.wrong or not self.right:
            what = f"first: {type(self.failure).__name__}: {self.failure}" if self.failure else "the text was another"
            raise BenchmarkFailed(f"{self.wrong} of {self.right + self.wrong} calls failed; {what}")


def throughput(call: Call, *, in_flight: int) -> Measure:
    """Calls per second, with so many under way at any time."""

    async def measure(seconds: float) -> Sample:
        tally = _Tally()
        begin = perf_counter()
        end = begin + seconds
        await asyncio.gather(*(_repeat(call, tally, end) for _ in range(in_flight)))
        took = perf_counter() - begin
        tally.check()
        return Sample(tally.right / took, tally.right)

    return measure


async def _repeat(call: Call, tally: _Tally, end: float) -> None:
    while perf_counter() < end:
        try:
            if await call():
                tally.right += 1
            else:
                tally.wrong += 1
        except Exception as failure:  # whatever it is, it is counted and told
            tally.wrong += 1
            tally.failure = tally.failure or failure


def latency(call: Call) -> Measure:
    """The median time of a call in microseconds, with one under way at any time."""

    async def measure(seconds: float) -> Sample:
        tally = _Tally()
        times: list[float] = []

        async def timed() -> bool:
            begin = perf_counter()
            is_right = await call()
            times.append(perf_counter() - begin)
            return is_right

        await _repeat(timed, tally, perf_counter() + seconds)
        tally.check()
        return Sample(median(times) * 1e6, tally.right)

    return measure
