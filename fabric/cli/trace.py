"""`fabric trace`: what happened to one request, wherever it went; from the spans of the last hour.

Above: `main`. Below: `waterfall`, the stream of spans on the fabric that `connection` finds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from fabric.cli.connection import durable
from fabric.cli.console import err, out, print_json, run, table
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.waterfall import duration, waterfall
from fabric.observability.spans_reading import Trace, beginning, recent
from fabric.observability.spans_reading import trace as trace_of
from fabric.observability.spans_wire import otlp
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import InvalidParams, UnknownName

_ID: Final = re.compile(r"(?:00-)?([0-9a-f]{32})(?:-[0-9a-f]{16}-[0-9a-f]{2})?")
_BEGINNING: Final = re.compile(r"[0-9a-f]{4,31}")
_WIDE: Final = 100
"""Characters of a line that has room for whole ids; else, their beginnings find the traces, too."""
_SHORT_ID: Final = 8
_NAMED: Final = 5
"""Traces that are named where several begin alike."""
_KEPT: Final = (
    "spans are kept for an hour, of calls that come through the gateway: one in ten, unless FABRIC_TRACE_SAMPLING says "
    "otherwise (1 traces all), and those whose client sends a sampled traceparent; `fabric call` goes past the gateway "
    "and is not traced"
)
"""What is to be known where there is no trace."""


def trace(
    which: Annotated[
        str,
        typer.Argument(
            metavar="ID|last|list",
            help="`last`: what was begun last, whoever asked for it. `list`: those there are, the newest first. ID: as "
            "`list`, logs and `fabric dead show` have it, or its first 4 digits or more; a traceparent, too.",
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many are listed.")] = 20,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Draw one trace as a waterfall, or list the recent ones; with --json, a trace is OTLP's JSON.

    A trace is one request with all that it led to, a span for each step; the fabric itself keeps them for an hour.
    Traced is one in ten of the requests that come through the gateway; FABRIC_TRACE_SAMPLING=1 traces all.
    So is each whose client sends a sampled traceparent; `fabric call` goes past the gateway, and is not.
    """

    async def work() -> None:
        async with durable(data) as fabric:
            if which == "list":
                _list(await recent(fabric.jetstream, limit), json_output=json_output)
                return
            found = await _find(fabric, which)
        if json_output:
            print_json(otlp(found.spans))
            return
        out.print(f"[bold]trace {found.id}[/]  {_when(found)}  {duration(found.seconds)}", soft_wrap=True)
        out.print(waterfall(found, out.width))

    run(work())


async def _find(fabric: Fabric, which: str) -> Trace:
    if which == "last":
        if not (newest := await recent(fabric.jetstream, 1)):
            raise UnknownName("no trace is kept", fix=_KEPT)
        trace_id = newest[0].id
    elif (whole := _ID.fullmatch(which.lower())) is not None:
        trace_id = whole[1]
    elif _BEGINNING.fullmatch(which.lower()) is not None:
        which = which.lower()
        ids = await beginning(fabric.jetstream, which)
        if len(ids) > 1:
            several = ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")
            raise InvalidParams(f"{len(ids)} traces begin with {which}", fix=f"give more digits of one of {several}")
        trace_id = next(iter(ids), which)
    else:
        raise InvalidParams(
            f"{which!r} is no trace id",
            fix="give 32 hexadecimal digits or the first of them, at least 4; `last`, or `list`",
        )
    # In full, also where part of it lies before what was looked at.
    if (found := await trace_of(fabric.jetstream, trace_id)) is None:
        raise UnknownName("no such trace is kept", fix=_KEPT)
    return found


def _list(traces: list[Trace], *, json_output: bool) -> None:
    if json_output:
        print_json([_about(each) for each in traces])
        return
    short = None if out.width >= _WIDE else _SHORT_ID
    lines = [
        (each.id[:short], _clock(each), each.root.name, duration(each.seconds), len(each.spans), each.failures or "")
        for each in traces
    ]
    table(("ID", "BEGAN", "REQUEST", "TOOK", "SPANS", "ERRORS"), lines)
    if not traces:
        err.print(f"[dim]No trace is kept: {_KEPT}.[/]")


def _about(found: Trace) -> dict[str, object]:
    about = {"id": found.id, "name": found.root.name, "start": found.start, "seconds": found.seconds}
    return {**about, "spans": len(found.spans), "failed": found.root.failed, "errors": found.failures}


def _when(found: Trace) -> str:
    return _began(found).isoformat(" ", "milliseconds")


def _clock(found: Trace) -> str:
    """The time of day: none is older than an hour."""
    return f"{_began(found):%H:%M:%S}"


def _began(found: Trace) -> datetime:
    return datetime.fromtimestamp(found.start / 1e9, UTC).astimezone()
