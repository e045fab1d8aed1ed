"""`fabric dead`: tasks that failed for good, kept until somebody decides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.calling import show_attempts
from fabric.cli.connection import durable
from fabric.cli.console import Exit, brief_json, err, facts, fail, out, print_json, run, table
from fabric.cli.options import DataOption, JsonOption, OfAgentOption
from fabric.cli.times import full, past, since
from fabric.durable import letters
from fabric.durable.letters import Handled
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams, UnknownTask
from fabric_sdk.contracts.subjects import checked_agent_name
from fabric_sdk.patterns.dead import DeadLetter, Which

app = typer.Typer(name="dead", help="Tasks that failed for good: look, try again, forget.", no_args_is_help=True)

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Of these tasks.")]
ToolOption = Annotated[str | None, typer.Option("--tool", help="Only this tool's.")]
ErrorOption = Annotated[str | None, typer.Option("--error", help="Only where the last error has these words.")]
BeforeOption = Annotated[str | None, typer.Option("--before", help="Only older ones: 2h, 7d, 2026-12-24.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that the filters find.")]


@app.command("list")
def list_(
    agent: OfAgentOption = None,
    tool: ToolOption = None,
    error: ErrorOption = None,
    before: BeforeOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List dead letters, the oldest first."""
    found = [letters.summary(letter) for letter in _chosen(data, _which(agent, tool, error, before))]
    if json_output:
        print_json(found)
        return
    rows = [
        (said["id"], said["agent"], said["tool"], said["attempts"], since(said["died"]), said["error"] or "")
        for said in found
    ]
    table(("ID", "AGENT", "TOOL", "TRIES", "DIED", "ERROR"), rows)
    if not rows:
        err.print("[dim]No dead letters.[/]")


@app.command()
def show(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Of the task.")],
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show a dead letter: the message, and of each attempt its error, worker, time and trace."""
    (letter,) = _chosen(data, Which(), [task_id], everything=False)
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
    chosen = _chosen(data, _which(agent, tool, error, before), ids or [], everything=everything)

    async def work() -> Handled:
        async with durable(data) as fabric:
            return await letters.redrive(fabric, chosen)

    _tell("tried again", run(work()), json_output=json_output)


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
    chosen = _chosen(data, _which(agent, tool, error, before), ids or [], everything=everything)
    if chosen and not ids and not yes:
        _confirm(len(chosen))

    async def work() -> Handled:
        async with durable(data) as fabric:
            return await letters.purge(fabric, chosen)

    _tell("forgotten", run(work()), json_output=json_output)


def _which(agent: str | None, tool: str | None, error: str | None, before: str | None) -> Which:
    try:
        whose = checked_agent_name(agent) if agent else "*"
        return Which(agent=whose, tool=tool, error=error, before=past(before).timestamp() if before else None)
    except ConfigurationError as mistake:
        fail(mistake)


def _chosen(data: Path | None, which: Which, ids: Sequence[str] = (), *, everything: bool = True) -> list[DeadLetter]:
    async def work() -> list[DeadLetter]:
        async with durable(data) as fabric:
            try:
                return await letters.chosen(fabric, ids, which, everything=everything)
            except UnknownTask as unknown:
                unknown.fix = "`fabric dead list` lists those there are"
                raise
            except InvalidParams as unclear:
                unclear.fix = "give IDs, or --all with the filters that say all of which"
                raise

    return run(work())


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        fail(ConfigurationError(f"{count} dead letters would be forgotten for ever", fix="add --yes to mean it"))
    if not typer.confirm(f"Forget {count} dead letters for ever?", err=True):
        raise typer.Exit(int(Exit.FAILED))


def _tell(what: str, handled: Handled, *, json_output: bool) -> None:
    if json_output:
        print_json({"done": handled.done, "passed_over": handled.passed_over})
        return
    out.print(f"{len(handled.done)} {what}")
    if handled.passed_over:
        err.print(f"[dim]{len(handled.passed_over)} passed over: not dead any more[/]")
