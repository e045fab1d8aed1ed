"""`fabric task`: work that is kept until its end is on record.

Above: `main`. Below: the SDK's tasks, and `fabric.durable.tasks`, which the agent `durable` shares.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.markup import escape

from fabric.cli.calling import for_a_task, show_attempts, show_progress, show_value, wanted
from fabric.cli.connection import durable
from fabric.cli.console import Exit, brief_json, err, facts, out, print_json, run, seen, table
from fabric.cli.options import DataOption, JsonOption, OfAgentOption, PriorityOption
from fabric.cli.times import full, moment, seconds, since
from fabric.durable.tasks import everything, listed, located, summary
from fabric_sdk import Record, Task
from fabric_sdk.contracts.errors import TaskDead
from fabric_sdk.contracts.subjects import checked_address
from fabric_sdk.contracts.task import Priority, State
from fabric_sdk.remote import How

T = TypeVar("T")

app = typer.Typer(name="task", help="Start work that survives every crash, and look after it.", no_args_is_help=True)

TaskArgument = Annotated[str, typer.Argument(metavar="ID", help="As `fabric task start` printed it.")]
PatienceOption = Annotated[
    float | None, typer.Option("--timeout", help="Seconds to wait; for ever by default.", min=0.001)
]


@app.command()
def start(
    agent: Annotated[str, typer.Argument(help="The agent; or @capability; or agent.tool.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TOOL ARGUMENTS", help="Its tool; then name=value pairs, or JSON.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Names the task: started again with it, it is joined; with other arguments, the key is refused."
        ),
    ] = None,
    priority: PriorityOption = "normal",
    delay: Annotated[str | None, typer.Option(help="Begin after so long: 90s, 2h.")] = None,
    at: Annotated[str | None, typer.Option(help="Begin at this time: 2026-12-24T18:00.")] = None,
    expires: Annotated[str | None, typer.Option(help="Do not begin after so long: 90s, 2h.")] = None,
    keep: Annotated[str | None, typer.Option(help="Keep its end for so long. [1d]")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and print the result.")] = False,
    timeout: PatienceOption = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Start a tool as a task, and print its id: `fabric task start hello echo text=hi`."""

    async def work() -> None:
        how = _how(key, priority, delay, at, expires, keep)
        asked = wanted(agent, words or [])
        async with durable(data) as fabric:
            task = await fabric.agent(asked.agent).start(asked.tool, await for_a_task(fabric, asked), **how)
            if wait:
                err.print(f"[dim]task {task.id}: `fabric task wait {task.id}` waits for it, too[/]", soft_wrap=True)
                await _show_end(task, timeout, json_output=json_output)
            elif json_output:
                print_json({"id": task.id, "agent": task.agent, "tool": asked.tool, "joined": task.joined})
            else:
                out.print(task.id, soft_wrap=True)
                if task.joined:
                    err.print("[dim]it was started before with this key[/]")

    run(work())


@app.command()
def show(task_id: TaskArgument, json_output: JsonOption = False, data: DataOption = None) -> None:
    """Show how a task stands."""
    record = _at(data, task_id, Task.status)
    if json_output:
        print_json(everything(record))
    else:
        _show(record)


@app.command()
def wait(
    task_id: TaskArgument, timeout: PatienceOption = None, json_output: JsonOption = False, data: DataOption = None
) -> None:
    """Wait for a task's end, and print its result."""
    _at(data, task_id, partial(_show_end, timeout=timeout, json_output=json_output))


@app.command()
def cancel(task_id: TaskArgument, json_output: JsonOption = False, data: DataOption = None) -> None:
    """End a task: it is never begun, or its handler is told. One that has ended stays as it is."""
    record = _at(data, task_id, Task.cancel)
    if json_output:
        print_json(summary(record))
    elif record.state == "cancelled":
        out.print("cancelled")
    else:
        err.print(f"[yellow]too late:[/] the task has ended as {escape(seen(record.state))}")
    if record.state != "cancelled":
        raise typer.Exit(int(Exit.FAILED))


@app.command("list")
def list_(
    agent: OfAgentOption = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 100,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List tasks: what waits, what runs, and how the others ended. Those started last come last."""

    async def work() -> list[Record]:
        whose = checked_address(agent) if agent else "*"
        async with durable(data) as fabric:
            return await listed(fabric, agent=whose, state=state, limit=limit)

    found = run(work())
    if json_output:
        print_json([summary(record) for record in found])
        return
    rows = [
        (record.id, record.agent, record.tool, record.state, record.tries, since(record.queued), record.key or "")
        for record in sorted(found, key=lambda record: record.queued)
    ]
    table(("ID", "AGENT", "TOOL", "STATE", "TRIES", "STARTED", "KEY"), rows)
    if not rows:
        err.print("[dim]No tasks: start one with `fabric task start AGENT TOOL`.[/]")


def _how(
    key: str | None, priority: Priority, delay: str | None, at: str | None, expires: str | None, keep: str | None
) -> How:
    how = How(priority=priority)
    if key is not None:
        how["key"] = key
    if at is not None:
        how["at"] = moment(at)
    if delay is not None:
        how["delay"] = seconds(delay)
    if expires is not None:
        how["expires"] = seconds(expires)
    if keep is not None:
        how["keep"] = seconds(keep)
    return how


def _at(data: Path | None, task_id: str, do: Callable[[Task], Awaitable[T]]) -> T:
    """Do something with the task of this id."""

    async def work() -> T:
        async with durable(data) as fabric:
            return await do(await located(fabric, task_id))

    return run(work())


async def _show_end(task: Task, timeout: float | None, *, json_output: bool) -> None:
    try:
        value = await task.result(timeout=timeout, on_progress=show_progress)
    except TaskDead as dead:
        dead.fix = f"`fabric dead show {task.id}` tells why; `fabric dead redrive {task.id}` tries again"
        raise
    show_value(value, json_output=json_output)


def _show(record: Record) -> None:
    facts(
        [
            ("task", record.id),
            ("agent", record.agent),
            ("tool", record.tool),
            ("state", record.state),
            ("priority", record.priority),
            ("started", full(record.queued)),
            ("changed", full(record.changed)),
            ("expires", full(record.expires)),
            ("tries", record.tries),
            ("worker", record.instance),
            ("key", record.key),
            ("principal", record.principal),
            ("progress", brief_json(record.progress)),
            ("result", brief_json(record.result)),
        ]
    )
    show_attempts(record.errors)
