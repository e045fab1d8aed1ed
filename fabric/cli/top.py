"""`fabric top`: the fabric as it works, in the terminal.

Above: `main`. Below: what every process counted, asked for over the bus, so that it shows the fabric on all machines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from fabric.cli.connection import connected
from fabric.cli.console import out, print_json, run, seen
from fabric.cli.options import DataOption, JsonOption
from fabric.observability.metrics import Family
from fabric.observability.metrics_summary import Reading, Row, read, rows
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.errors import AgentUnavailable
from fabric_sdk.patterns.gather import gather

_ASK_SECONDS: Final = 0.5
_COLUMNS: Final = ("CALLS/S", "P50", "P95", "ERR/S", "RUN", "WAIT", "QUEUE", "DEAD")
_NARROW: Final = 80
"""Characters of a line; with fewer, columns stand close."""


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds that each picture spans.", min=0.5, max=3600)] = 2.0,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show what each agent does now: calls, times, errors, what waits. Ctrl-C ends it.

    QUEUE: tasks that nobody has been given yet; under @NAME, those for whoever has that capability.
    Under `group NAME`: events for a group of subscribers; an agent's reaction is one, called AGENT-REACTION.
    """
    run(_top(once=once, interval=interval, json_output=json_output, data=data))


async def _top(*, once: bool, interval: float, json_output: bool, data: Path | None) -> None:
    async with connected(data) as fabric:
        before, then = await _readings(fabric), time.monotonic()
        if not before:
            raise AgentUnavailable("NATS is there, but no fabric on it", fix="start one with `fabric up`")
        live = Live(console=out, auto_refresh=False, screen=True)
        drawn = out.is_terminal and not once and not json_output  # elsewhere a screen shows nothing
        with live if drawn else nullcontext():
            while True:
                await asyncio.sleep(max(0.0, then + interval - time.monotonic() - _ASK_SECONDS))
                after, now = await _readings(fabric), time.monotonic()
                shown = rows(before, after, now - then)
                if json_output:
                    print_json([asdict(row) for row in shown], line=not once)
                elif drawn:
                    live.update(table(shown, out.width), refresh=True)
                else:
                    out.print(table(shown, out.width))
                if once:
                    return
                before, then = after, now


async def _readings(fabric: Fabric) -> dict[str, Reading]:
    """Every process, by its name."""
    answers: list[Any] = await gather(fabric.transport, subjects.METRICS, seconds=_ASK_SECONDS)
    found: dict[str, Reading] = {}
    for answer in answers:
        try:
            found[str(answer["process"])] = read(msgspec.convert(answer["families"], list[Family], strict=False))
        except (KeyError, TypeError, ValueError):  # another's, or a version's that says it otherwise
            continue
    return found


def table(shown: Sequence[Row], width: int) -> Table:
    """The picture, for lines of this width; numbers stay whole, names are folded."""
    grid = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=width < _NARROW)
    grid.add_column("AGENT", overflow="fold")
    for column in ("UP", *_COLUMNS):
        grid.add_column(column, justify="right", no_wrap=True)
    for row in shown:
        grid.add_row(*(escape(seen(cell)) for cell in _cells(row)))
    return grid


def _cells(row: Row) -> Sequence[str]:
    if row.group:  # nothing else of it is known
        return (f"group {row.agent}", *(str(row.backlog) if each == "QUEUE" else "" for each in ("UP", *_COLUMNS)))
    return (
        row.agent,
        str(row.instances),
        f"{row.calls_per_second:.1f}",
        _time(row.p50_seconds),
        _time(row.p95_seconds),
        f"{row.errors_per_second:.1f}",
        *map(str, (row.running, row.waiting, row.backlog, row.dead_letters)),
    )


def _time(seconds: float | None) -> str:
    """Short, in the unit that suits it."""
    if seconds is None:
        return ""
    of_second = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    unit, name = next((each for each in of_second if seconds >= each[0]), of_second[-1])
    return f"{seconds / unit:.{1 if seconds / unit < 100 else 0}f}{name}"
