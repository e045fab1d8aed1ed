"""`fabric bench`: each benchmark beside its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from fabric.bench.comparison import Result, compare
from fabric.bench.suite import BENCHMARKS, chosen, write
from fabric.cli.console import err, print_json, run, table
from fabric.cli.options import JsonOption
from fabric.cli.stopping import Stop


def bench(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(BENCHMARKS)}; all if none is named.")] = None,
    seconds: Annotated[float, typer.Option(help="How long a turn lasts; whole seconds over HTTP.", min=0.05)] = 1.0,
    rounds: Annotated[int, typer.Option(help="How often both sides take their turn.", min=1)] = 9,
    json_output: JsonOption = False,
) -> None:
    """Measure the product beside the bare libraries doing the same job; writes loadtests/results/latest.json.

    The ratio is 1.0 where the product is as fast as the bare library; higher is better.
    """
    results = run(_bench(names or (), seconds, rounds))
    if json_output:
        print_json([asdict(result) for result in results])
    else:
        table(("benchmark", "value", "floor", "unit", "ratio", "n"), [_row(result) for result in results])


async def _bench(names: Sequence[str], seconds: float, rounds: int) -> list[Result]:
    Stop()  # a signal ends everything that was started, in order
    results: list[Result] = []
    for benchmark in chosen(names):
        err.print(f"[dim]{benchmark.name}: {rounds} rounds of 2 x {seconds:g} s[/]")
        results.append(await compare(benchmark, seconds=seconds, rounds=rounds))
    err.print(f"[dim]written to {write(results)}[/]", soft_wrap=True)
    return results


def _row(result: Result) -> tuple[str, float, float, str, float, int]:
    value, floor = (round(number) if number >= 1000 else number for number in (result.value, result.floor))
    return result.name, value, floor, result.unit, round(result.ratio, 2), result.n
