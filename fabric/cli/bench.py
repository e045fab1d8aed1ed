"""`fabric bench`: each benchmark beside its floor.

Above: `main`. Below: `benchmarks`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.options import JsonOption


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="call.memory, call.nats.latency, …; all if none is named.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long a turn lasts; whole seconds over HTTP.", min=0.05)] = 1.0,
    rounds: Annotated[int, typer.Option(help="How often both sides take their turn.", min=1)] = 9,
    tools: Annotated[int | None, typer.Option(help="How many tools gateway.many_tools has. [10000]", min=10)] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure the product beside the bare libraries doing the same job; writes loadtests/results/latest.json.

    The ratio is 1.0 where the product is as fast as the bare library; higher is better.
    """
    from fabric.cli import benchmarks  # with all that is measured: a part of a second that no other command shall pay

    benchmarks.measure(names or (), seconds, rounds, tools, json_output=json_output)
