"""How two sides are compared: in turns, by the median of each, as a ratio where higher is better and 1.0 is the floor.

Above: `suite`, the command line. Below: the standard library. It refuses to know what is measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from fabric_sdk.contracts.errors import FabricError

WARM_UP: Final = 1.0
"""Seconds that each side runs unmeasured, at most: connections are open and code paths have been taken by then."""


class BenchmarkFailed(FabricError):
    """A benchmark got wrong answers."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one side did in one turn."""

    value: float
    """In the benchmark's unit."""
    n: int
    """Operations measured."""


Measure = Callable[[float], Awaitable[Sample]]
"""Runs one side for so many seconds. Raises BenchmarkFailed if a single answer was wrong."""


class Sides(NamedTuple):
    """The two that are compared."""

    product: Measure
    floor: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One comparison, and how to set it up."""

    name: str
    unit: str
    is_latency: bool = False
    """Whether a smaller value is better."""
    sides: Callable[[], AbstractAsyncContextManager[Sides]]
    """Everything that both sides need, running while the block is."""
    needs_wrk: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One line of `latest.json`."""

    name: str
    value: float
    unit: str
    floor: float
    ratio: float
    """Product over floor for throughput, floor over product for latency."""
    n: int
    """Operations of the product that were measured, over all rounds."""


async def compare(benchmark: Benchmark, *, seconds: float, rounds: int) -> Result:
    """Run both sides in turns, so many rounds of so many seconds each.

    Raises:
        BenchmarkFailed: an answer was wrong, or did not come.
    """
    products: list[Sample] = []
    floors: list[Sample] = []
    async with benchmark.sides() as (product, floor):
        for warm_up in (product, floor):
            await warm_up(min(seconds, WARM_UP))
        for _ in range(rounds):
            products.append(await product(seconds))
            floors.append(await floor(seconds))
    value = median(sample.value for sample in products)
    bare = median(sample.value for sample in floors)
    ratio = bare / value if benchmark.is_latency else value / bare
    return Result(
        benchmark.name,
        round(value, 2),
        benchmark.unit,
        round(bare, 2),
        round(ratio, 3),
        sum(sample.n for sample in products),
    )
