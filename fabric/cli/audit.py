"""`fabric audit`: who did what, as it comes, and whether the log of it is as it was written.

Above: `main`. Below: the audit log itself, read from the stream, whether or not the agent `audit` is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from fabric.audit.entry import Entry, Outcome
from fabric.audit.reading import Noted, Wanted, followed, found, newest, verified
from fabric.cli.connection import durable
from fabric.cli.console import Exit, err, out, print_json, run, seen, table, warn
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.stopping import Stop
from fabric.cli.times import past, short
from fabric_sdk.jetstream import JetStream

app = typer.Typer(name="audit", help="Who did what, and what came of it.", no_args_is_help=True)

SinceOption = Annotated[str | None, typer.Option("--since", help="From here on: 10m, or 2026-12-24T18:00.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="Up to here, as --since.")]
PrincipalOption = Annotated[str | None, typer.Option("--principal", help="Only what this one did.")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="Only what was done with this agent.")]
OutcomeOption = Annotated[Outcome | None, typer.Option("--outcome", help="Only what came to this.")]


@app.command("list")
def list_(
    since: SinceOption = None,
    until: UntilOption = None,
    principal: PrincipalOption = None,
    agent: AgentOption = None,
    outcome: OutcomeOption = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1, max=100_000)] = 100,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List what was noted, the newest at the end."""

    async def work() -> list[Noted]:
        wanted = _wanted(since, until, principal, agent, outcome)
        async with durable(data) as fabric:
            return await newest(fabric.jetstream, wanted, limit)

    entries = run(work())
    if json_output:
        print_json([noted.shown() for noted in entries])
        return
    table(("WHEN", "OUTCOME", "WHO", "DOOR", "WHAT", "RULE"), [_row(noted.entry) for noted in entries])
    if not entries:
        err.print("[dim]Nothing of this kind was noted; FABRIC_AUDIT says what is.[/]")


@app.command()
def tail(
    since: SinceOption = None,
    principal: PrincipalOption = None,
    agent: AgentOption = None,
    outcome: OutcomeOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print entries as they come until Ctrl-C, each on a line."""

    def entries(jetstream: JetStream) -> AsyncGenerator[Noted]:
        return followed(jetstream, _wanted(since, None, principal, agent, outcome))

    _stream(data, entries, json_output=json_output, before="Ctrl-C ends")


@app.command()
def export(
    since: SinceOption = None,
    until: UntilOption = None,
    principal: PrincipalOption = None,
    agent: AgentOption = None,
    outcome: OutcomeOption = None,
    data: DataOption = None,
) -> None:
    """Print entries as JSON, one on a line, the oldest first."""

    def entries(jetstream: JetStream) -> AsyncGenerator[Noted]:
        return found(jetstream, _wanted(since, until, principal, agent, outcome))

    _stream(data, entries, json_output=True)


@app.command()
def verify(json_output: JsonOption = False, data: DataOption = None) -> None:
    """Look whether anything was removed or changed; exit code 1 if so."""

    async def work() -> None:
        async with durable(data) as fabric:
            verdict = await verified(fabric.jetstream)
        if json_output:
            print_json(asdict(verdict))
        else:
            for finding in verdict.findings:
                who = f" of {finding.writer}" if finding.writer else ""
                out.print(seen(f"message {finding.sequence}{who}: {finding.what}"), markup=False, soft_wrap=True)
            if verdict.lost:
                warn(f"{verdict.lost} entries were never kept, as the broker was away for too long")
            said = "all as it was written" if verdict.whole else f"{len(verdict.findings)} findings"
            out.print(f"{verdict.entries} entries in {verdict.batches} batches: {said}", markup=False, soft_wrap=True)
        if not verdict.whole:
            raise typer.Exit(int(Exit.FAILED))

    run(work())


def _wanted(
    since: str | None, until: str | None, principal: str | None, agent: str | None, outcome: Outcome | None
) -> Wanted:
    return Wanted(
        since=past(since).timestamp() if since else 0.0,
        until=past(until).timestamp() if until else inf,
        principal=principal,
        agent=agent,
        outcome=outcome,
    )


def _stream(
    data: Path | None,
    entries: Callable[[JetStream], AsyncGenerator[Noted]],
    *,
    json_output: bool,
    before: str = "",
) -> None:
    """Print entries until there are no more, Ctrl-C, or nobody reads: each is a good end."""

    async def work() -> None:
        Stop()  # a signal cancels what follows
        try:
            async with durable(data) as fabric, aclosing(entries(fabric.jetstream)) as stream:
                if before:
                    err.print(f"[dim]{before}[/]")
                async for noted in stream:
                    if json_output:
                        print_json(noted.shown(), line=True)
                    else:
                        sys.stdout.write(seen("  ".join(str(each) for each in _row(noted.entry) if each)) + "\n")
                        sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not written to the pipe
        except asyncio.CancelledError:
            return

    run(work())


def _row(entry: Entry) -> tuple[object, ...]:
    outcome = entry.outcome if entry.count == 1 else f"{entry.outcome} x{entry.count}"
    what = f"{entry.agent}/{entry.tool}" if entry.agent else entry.tool or entry.method
    code = f" ({entry.code})" if entry.code else ""
    about = f" {json.dumps(entry.about, ensure_ascii=False)}" if entry.about else ""
    who = entry.principal or entry.address or entry.door
    return short(entry.at), outcome + code, who, entry.door, what + about, entry.rule
