"""Two sides are compared in turns, by their medians, and one wrong answer spoils a benchmark. Proves: no row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from fabric.bench.comparison import Benchmark, BenchmarkFailed, Measure, Sample, Sides, compare
from fabric.bench.drive import Call, latency, throughput
from fabric_sdk import ToolError

pytestmark = pytest.mark.anyio


def telling(name: str, values: Iterator[float], turns: list[str]) -> Measure:
    """A side that says when its turn is, and measures these values one after the other."""

    async def measure(seconds: float) -> Sample:
        turns.append(f"{name} {seconds:g}")
        return Sample(next(values), 10)

    return measure


def benchmark(product: Measure, floor: Measure, *, is_latency: bool = False) -> Benchmark:
    @asynccontextmanager
    async def sides() -> AsyncGenerator[Sides]:
        yield Sides(product, floor)

    return Benchmark(name="some", unit="some/s", is_latency=is_latency, sides=sides)


async def test_after_a_warm_up_both_sides_take_turns_and_their_medians_count() -> None:
    turns: list[str] = []
    product = telling("product", iter([999, 10, 30, 20]), turns)
    floor = telling("floor", iter([999, 50, 40, 30]), turns)
    result = await compare(benchmark(product, floor), seconds=3, rounds=3)
    assert turns == ["product 1", "floor 1", *["product 3", "floor 3"] * 3]
    assert (result.value, result.floor, result.ratio, result.n) == (20, 40, 0.5, 30)


async def test_of_a_latency_the_smaller_value_has_the_higher_ratio() -> None:
    product, floor = telling("product", iter([0, 50]), []), telling("floor", iter([0, 40]), [])
    assert (await compare(benchmark(product, floor, is_latency=True), seconds=1, rounds=1)).ratio == 0.8


async def test_calls_are_counted_with_as_many_under_way_as_asked_for() -> None:
    under_way = most = answered = 0

    async def call() -> bool:
        nonlocal under_way, most, answered
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        answered += 1
        return True

    sample = await throughput(call, in_flight=7)(0.1)
    assert most == 7
    assert sample.n == answered
    assert sample.value > 0


async def test_a_latency_is_told_in_microseconds() -> None:
    async def call() -> bool:
        await asyncio.sleep(0.02)
        return True

    sample = await latency(call)(0.1)
    assert sample.value > 19_000
    assert sample.n > 0


@pytest.mark.parametrize("drive", [latency, partial(throughput, in_flight=3)], ids=["latency", "throughput"])
async def test_a_wrong_answer_and_an_error_fail_the_benchmark_and_are_counted(drive: Callable[[Call], Measure]) -> None:
    answers = iter([True, False, True])

    async def call() -> bool:
        await asyncio.sleep(0)
        if (answer := next(answers, None)) is None:
            await asyncio.sleep(0.1)
            raise ToolError("out of answers")
        return answer

    with pytest.raises(BenchmarkFailed, match=r"\d of \d calls failed; first: ToolError: out of answers"):
        await drive(call)(0.05)
