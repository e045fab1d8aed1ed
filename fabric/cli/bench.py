"""`fabric bench`: each benchmark beside its floor."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from fabric.bench.comparison import Benchmark, Result, compare
from fabric.bench.suite import BENCHMARKS, chosen, write
from fabric.cli.console import err, fail, print_json, run, table
from fabric.cli.options import JsonOption
from fabric_sdk.contracts.errors import ConfigurationError


def bench(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(BENCHMARKS)}; all if none is named.")] = None,
    seconds: Annotated[float, typer.Option(help="How long each side runs in each round.", min=0.05)] = 2.0,
    rounds: Annotated[int, typer.Option(help="How often both sides take turns.", min=1)] = 5,
    json_output: JsonOption = False,
) -> None:
    """Measure the product beside the bare libraries doing the same job; writes loadtests/results/latest.json.

    The ratio is 1.0 where the product is as fast as the bare library; higher is better.
    """
    try:
        benchmarks = chosen(names or ())
    except ConfigurationError as mistake:
        fail(mistake)
    results = run(_bench(benchmarks, seconds, rounds))
    if json_output:
        print_json([asdict(result) for result in results])
    else:
        columns = ("benchmark", "value", "floor", "unit", "ratio", "n")
        table(columns, [(each.name, each.value, each.floor, each.unit, each.ratio, each.n) for each in results])
    err.print(f"[dim]written to {write(results)}[/]", soft_wrap=True)


async def _bench(benchmarks: Sequence[Benchmark], seconds: float, rounds: int) -> list[Result]:
    task = asyncio.current_task()
    assert task is not None  # a coroutine always runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # ends all in order, as Ctrl-C does
    results: list[Result] = []
    for benchmark in benchmarks:
        err.print(f"[dim]{benchmark.name}: {rounds} rounds of 2 x {seconds:g} s[/]")
        results.append(await compare(benchmark, seconds=seconds, rounds=rounds))
    return results
