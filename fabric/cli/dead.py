"""`fabric dead`: tasks that failed for good, kept until somebody decides.

Above: `main`. Below: `fabric.durable.letters`, which the agent `durable` shares.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from fabric.cli.calling import show_attempts
from fabric.cli.connection import durable
from fabric.cli.console import Exit, brief_json, err, facts, fail, out, print_json, run, table
from fabric.cli.options import DataOption, JsonOption, OfAgentOption
from fabric.cli.times import full, past, since
from fabric.durable import letters
from fabric.durable.letters import Handled
from fabric.durable.pages import Page, page
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams, UnknownTask
from fabric_sdk.contracts.subjects import checked_address
from fabric_sdk.patterns.dead import DeadLetter, Which

app = typer.Typer(name="dead", help="Tasks that failed for good: look, try again, forget.", no_args_is_help=True)

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Of these tasks.")]
ToolOption = Annotated[str | None, typer.Option("--tool", help="Only this tool's.")]
ErrorOption = Annotated[str | None, typer.Option("--error", help="Only where the last error has these words.")]
BeforeOption = Annotated[str | None, typer.Option("--before", help="Only older ones: 2h, 7d, 2026-12-24.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that the filters find.")]

Letters: TypeAlias = AsyncIterable[DeadLetter]
T = TypeVar("T")


@app.command("list")
def list_(
    agent: OfAgentOption = None,
    tool: ToolOption = None,
    error: ErrorOption = None,
    before: BeforeOption = None,
    limit: Annotated[int, typer.Option(help="At most so many, the oldest.", min=1)] = 100,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List dead letters, the oldest first."""

    async def first(_: Fabric, found: Letters) -> Page[dict[str, Any]]:
        return await page((letters.summary(letter) async for letter in found), limit)

    begun = _with(data, first, _which(agent, tool, error, before))
    if json_output:
        print_json(begun.found)
    else:
        rows = [
            (said["id"], said["agent"], said["tool"], said["attempts"], since(said["died"]), said["error"] or "")
            for said in begun.found
        ]
        table(("ID", "AGENT", "TOOL", "TRIES", "DIED", "ERROR"), rows)
        if not rows:
            err.print("[dim]No dead letters.[/]")
    if begun.more:
        err.print(f"[dim]There are more than these {limit}: --limit shows more, filters say which.[/]")


@app.command()
def show(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Of the task.")],
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show a dead letter: the message, and of each attempt its error, worker, time and trace."""

    async def only(_: Fabric, found: Letters) -> DeadLetter:
        return await anext(aiter(found))

    letter = _with(data, only, Which(), [task_id], everything=False)
    if json_output:
        print_json({name: getattr(letter, name) for name in DeadLetter.__slots__})
        return
    facts(
        [
            ("task", letter.id),
            ("agent", letter.agent),
            ("tool", letter.tool),
            ("priority", letter.priority),
            ("died", full(letter.died)),
            ("message", brief_json(letter.params)),
            *sorted(letter.headers.items()),
        ]
    )
    show_attempts(letter.errors)


@app.command()
def redrive(
    ids: IdsArgument = None,
    everything: AllOption = False,
    agent: OfAgentOption = None,
    tool: ToolOption = None,
    error: ErrorOption = None,
    before: BeforeOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Try dead tasks again, under their own ids and keys."""
    which = _which(agent, tool, error, before)
    handled = _with(data, letters.redrive, which, ids or [], everything=everything)
    _tell("tried again", handled, json_output=json_output)


@app.command()
def purge(
    ids: IdsArgument = None,
    everything: AllOption = False,
    agent: OfAgentOption = None,
    tool: ToolOption = None,
    error: ErrorOption = None,
    before: BeforeOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Forget dead letters. The tasks stay dead for whoever asks."""
    which = _which(agent, tool, error, before)
    if everything and not ids and not yes:
        count, last = _with(data, _counted, which)
        which = replace(which, through=last)  # what dies while somebody thinks was not asked about
        if count:
            _confirm(count)
    handled = _with(data, letters.purge, which, ids or [], everything=everything)
    _tell("forgotten", handled, json_output=json_output)


def _which(agent: str | None, tool: str | None, error: str | None, before: str | None) -> Which:
    try:
        whose = checked_address(agent) if agent else "*"
        return Which(agent=whose, tool=tool, error=error, before=past(before).timestamp() if before else None)
    except ConfigurationError as mistake:
        fail(mistake)


def _with(
    data: Path | None,
    do: Callable[[Fabric, Letters], Awaitable[T]],
    which: Which,
    ids: Sequence[str] = (),
    *,
    everything: bool = True,
) -> T:
    """What is done with the letters that are chosen."""

    async def work() -> T:
        async with durable(data) as fabric:
            try:
                return await do(fabric, letters.chosen(fabric, ids, which, everything=everything))
            except UnknownTask as unknown:
                unknown.fix = "`fabric dead list` lists those there are"
                raise
            except InvalidParams as unclear:
                unclear.fix = "give IDs, or --all with the filters that say all of which"
                raise

    return run(work())


async def _counted(_: Fabric, found: Letters) -> tuple[int, int]:
    """How many there are, and the place of the last."""
    count = last = 0
    async for letter in found:
        count, last = count + 1, letter.sequence
    return count, last


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        fail(ConfigurationError(f"{count} dead letters would be forgotten for ever", fix="add --yes to mean it"))
    if not typer.confirm(f"Forget {count} dead letters for ever?", err=True):
        raise typer.Exit(int(Exit.FAILED))


def _tell(what: str, handled: Handled, *, json_output: bool) -> None:
    if json_output:
        print_json(asdict(handled))
        return
    out.print(f"{handled.done} {what}")
    if handled.passed_over:
        err.print(f"[dim]{handled.passed_over} passed over: not dead any more[/]")
