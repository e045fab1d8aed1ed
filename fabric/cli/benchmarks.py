"""What `fabric bench` does, apart from it: whatever this imports, no other command waits for.

Above: `bench`. Below: `fabric.bench`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from fabric.bench.comparison import Result, compare
from fabric.bench.suite import GOALS, chosen, write
from fabric.cli.console import err, print_json, run, table
from fabric.cli.stopping import Stop


def measure(names: Sequence[str], seconds: float, rounds: int, tools: int | None, *, json_output: bool) -> None:
    """Run the benchmarks of these names and show their results."""
    results = run(_measured(names, seconds, rounds, tools))
    if json_output:
        print_json([asdict(result) for result in results])
    else:
        table(("benchmark", "value", "floor", "unit", "ratio", "goal", "n"), [_row(result) for result in results])


async def _measured(names: Sequence[str], seconds: float, rounds: int, tools: int | None) -> list[Result]:
    Stop()  # a signal ends everything that was started, in order
    results: list[Result] = []
    for benchmark in chosen(names, tools):
        err.print(f"[dim]{benchmark.name}: {rounds} rounds of 2 x {seconds:g} s[/]")
        results.append(await compare(benchmark, seconds=seconds, rounds=rounds))
    err.print(f"[dim]written to {write(results)}[/]", soft_wrap=True)
    return results


def _row(result: Result) -> tuple[str, float, float, str, float, float | str, int]:
    value, floor = (round(number) if number >= 1000 else number for number in (result.value, result.floor))
    return result.name, value, floor, result.unit, round(result.ratio, 2), GOALS.get(result.name, ""), result.n
