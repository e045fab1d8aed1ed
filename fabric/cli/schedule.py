"""`fabric schedule`: tools that are started again and again.

Above: `main`. Below: the SDK's schedules, on the fabric that `connection` finds.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from fabric.cli.calling import Wanted, for_a_task
from fabric.cli.connection import durable, there_are
from fabric.cli.console import brief_json, err, out, print_json, run, table
from fabric.cli.options import DataOption, JsonOption, OfAgentOption, PriorityOption
from fabric.cli.times import since
from fabric.durable.firing import with_next
from fabric.durable.pages import Page, page
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import UnknownName
from fabric_sdk.contracts.subjects import checked_address

app = typer.Typer(name="schedule", help="Tools that are started again and again.", no_args_is_help=True)

AgentArgument = Annotated[str, typer.Argument(help="The agent; or @capability.")]


@app.command("set")
def set_(
    agent: AgentArgument,
    name: Annotated[str, typer.Argument(help="The schedule's own name.")],
    when: Annotated[str, typer.Argument(help='"every 90s", a cron expression, or @daily.')],
    tool: Annotated[str, typer.Argument(help="The tool.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENTS]...", help="name=value pairs, or JSON.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Of a cron expression, as Europe/Rome. [UTC]")] = None,
    priority: PriorityOption = "normal",
    data: DataOption = None,
) -> None:
    """Set a schedule, in place of any of its name: `fabric schedule set reports nightly "30 2 * * *" build`."""

    async def work() -> None:
        async with durable(data) as fabric:
            given = await for_a_task(fabric, Wanted(agent, tool, words or []))
            await fabric.agent(agent).schedule(name, when, tool, given, zone=zone, priority=priority)

    run(work())
    out.print("set")


@app.command("list")
def list_(
    agent: OfAgentOption = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List schedules, then tasks that wait for their time, each with when it is next."""

    async def work() -> Page[dict[str, Any]]:
        whose, now = checked_address(agent) if agent else "*", time.time()
        async with durable(data) as fabric:
            found = fabric.schedules.find(whose)
            return await page((with_next(schedule, now) async for schedule in found), limit)

    begun = run(work())
    if json_output:
        print_json(begun.found)
    else:
        rows = [_row(schedule) for schedule in begun.found]
        table(("AGENT", "NAME", "WHEN", "ZONE", "NEXT", "TOOL", "ARGUMENTS"), rows)
        if not rows:
            err.print("[dim]No schedules: set one with `fabric schedule set AGENT NAME WHEN TOOL`.[/]")
    if begun.more:
        err.print(f"[dim]There are more than these {limit}: --limit shows more.[/]")


def _row(said: dict[str, Any]) -> tuple[object, ...]:
    due, given = since(said["next"]) if said["next"] else "", brief_json(said["arguments"]) or ""
    return (said["agent"], said["name"], said["when"], said["zone"] or "", due, said["tool"], given)


@app.command()
def remove(
    agent: AgentArgument,
    name: Annotated[str, typer.Argument(help="The schedule's name.")],
    data: DataOption = None,
) -> None:
    """Let a schedule never fire again."""

    async def work() -> None:
        async with durable(data) as fabric:
            if not await fabric.agent(agent).unschedule(name):
                raise UnknownName(f"agent {agent!r} has no schedule {name!r}", fix=await _instead(fabric, agent, name))

    run(work())
    out.print("removed")


async def _instead(fabric: Fabric, agent: str, name: str) -> str:
    """What to do for somebody who named no schedule of this agent."""
    found = await fabric.schedules.list(agent)
    if name in {each.name for each in found if not each.again}:
        return f"it is a task that waits for its time: `fabric task cancel {name}`"
    return there_are(name, [each.name for each in found if each.again])
