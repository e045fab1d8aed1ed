"""`fabric events`: tell what happened, watch what happens, look at what happened before.

Above: `main`. Below: the SDK's client, on the fabric that `connection` finds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.calling import said
from fabric.cli.connection import durable
from fabric.cli.console import err, out, print_json, run, seen, warn
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.schemas import app as schemas
from fabric.cli.stopping import Stop
from fabric.cli.times import place
from fabric_sdk import Fabric
from fabric_sdk.client import Wanted
from fabric_sdk.patterns.event import Received
from fabric_sdk.routing.expressions import TransformationFailed

app = typer.Typer(name="events", help="What happens: publish, watch, look back.", no_args_is_help=True)
app.add_typer(schemas)

Stream = AbstractAsyncContextManager[AsyncGenerator[Received]]

TopicsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[TOPIC]...", help="`orders.*`, `orders.>`; all if none is named.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="From here on: 10m, 2026-12-24T18:00, or a sequence number.")
]
FilterOption = Annotated[
    str | None, typer.Option("--filter", metavar="CEL", help="Only events for which this is true: data.total > 100")
]
TransformOption = Annotated[
    str | None, typer.Option("--transform", metavar="CEL", help="Show this of each, in place of its data: data.id")
]


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(help="Words between dots: orders.created.")],
    words: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="name=value pairs, or JSON; - reads JSON from standard input."),
    ],
    event_id: Annotated[
        str | None, typer.Option("--id", help="Names the event: published again with it, nothing changes.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="What it happened to.")] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Tell what happened, and print the event's id: `fabric events publish orders.created id=7 total=120`."""

    async def work() -> None:
        told = said(words)
        async with durable(data) as fabric:
            event = await fabric.publish(topic, told, id=event_id, subject=subject)
        if json_output:
            print_json({**event.about(), "data": event.data})
        else:
            out.print(event.id, markup=False, soft_wrap=True)

    run(work())


@app.command()
def tail(
    topics: TopicsArgument = None,
    since: SinceOption = None,
    group: Annotated[
        str | None, typer.Option(help="Share them with this durable group; its first member settles --since.")
    ] = None,
    where: FilterOption = None,
    transform: TransformOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print events as they come until Ctrl-C, each on a line: topic, time, source, id, subject, data."""

    def wanted(fabric: Fabric) -> Stream:
        return fabric.subscribe(*(topics or (">",)), group=group, **_interest(where, transform, since))

    _watch(wanted, data, json_output=json_output, before="waiting for events; Ctrl-C ends")


@app.command()
def replay(
    topics: TopicsArgument = None,
    since: SinceOption = None,
    until: Annotated[str | None, typer.Option(help="Up to here, as --since. [the end as it is now]")] = None,
    original_speed: Annotated[bool, typer.Option("--original-speed", help="As far apart as they happened.")] = False,
    where: FilterOption = None,
    transform: TransformOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print events that happened, in order, each on a line: topic, time, source, id, subject, data."""

    def wanted(fabric: Fabric) -> Stream:
        how = _interest(where, transform, since) | Wanted(original_speed=original_speed)
        return fabric.replay(*(topics or (">",)), until=place(until) if until else None, **how)

    _watch(wanted, data, json_output=json_output)


def _interest(where: str | None, transform: str | None, since: str | None) -> Wanted:
    wanted = Wanted()
    if where is not None:
        wanted["filter"] = where
    if transform is not None:
        wanted["transform"] = transform
    if since is not None:
        wanted["start"] = place(since)
    return wanted


def _watch(wanted: Callable[[Fabric], Stream], data: Path | None, *, json_output: bool, before: str = "") -> None:
    """Print events until there are no more, Ctrl-C, or nobody reads: each is a good end."""

    async def work() -> None:
        Stop()  # a signal cancels what follows
        try:
            async with durable(data) as fabric, wanted(fabric) as events:
                if before:
                    err.print(f"[dim]{before}[/]")
                async for event in events:
                    _print(event, json_output=json_output)
                    await event.ack()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not written to the pipe
        except asyncio.CancelledError:
            return

    run(work())


def _print(event: Received, *, json_output: bool) -> None:
    try:
        text = json.dumps(event.data, ensure_ascii=False, default=str)  # CEL has times and bytes, which JSON has not
    except TransformationFailed as misfit:
        warn(misfit.message)
        return
    if json_output:
        print_json({**event.about(), "data": json.loads(text)}, line=True)
        return
    about = f"{event.topic} {event.time} {event.source} {event.id} {event.subject or '-'}"
    sys.stdout.write(seen(f"{about} {text}") + "\n")
    sys.stdout.flush()
