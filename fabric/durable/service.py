"""The agent `durable`: what `fabric task|dead|schedule|events` do, for agents.

Above: `fabric.platform`, which starts it and the others beside it. Below: the SDK's client, out of each call's context.
It holds nothing, so any number of instances share the work, and none is missed: what it shows lies with the broker.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from fabric.durable import letters, past, tasks
from fabric.durable.firing import with_next
from fabric.durable.letters import Handled, chosen
from fabric.durable.pages import Page, page
from fabric.durable.replicas import watch
from fabric.hints import ADDS, CHANGES, DESTROYS, READS
from fabric.settings import load_settings
from fabric_sdk import Agent, Context, Fabric
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts.errors import UnknownName
from fabric_sdk.contracts.event import checked_pattern
from fabric_sdk.contracts.subjects import checked_address
from fabric_sdk.contracts.task import Priority, State
from fabric_sdk.patterns.dead import DeadLetter, Which
from fabric_sdk.patterns.schema import Compatibility, Schema
from fabric_sdk.remote import How

Limit = Annotated[int, Field(ge=1, le=1000, description="At most so many.")]
Seconds = Annotated[float, Field(ge=0, description="Seconds from now.")]


@asynccontextmanager
async def _audited(fabric: Fabric) -> AsyncGenerator[None]:
    """Compares the replicas of all streams in the background, where it may ask the servers."""
    system_url = load_settings().nats_system_url
    watching = [keep_on(partial(watch, fabric, system_url), "comparing replicas")] if system_url else []
    try:
        yield
    finally:
        await end(watching)


agent = Agent(
    "durable",
    version="1.0.0",
    description="Looks after durable work: tasks, dead letters, schedules, schemas of events.",
    kind="platform",
    lifespan=_audited,
)


@agent.tool(annotations=ADDS)
async def start_task(
    ctx: Context,
    agent: str,
    tool: str,
    arguments: dict[str, Any] | None = None,
    key: str | None = None,
    priority: Priority = "normal",
    delay: Seconds | None = None,
    expires: Seconds | None = None,
) -> dict[str, Any]:
    """Start a tool as a task, which is done whatever dies; tells its id, and whether `key` joined one started before.

    A key that names a task with other arguments is refused. It begins after `delay` seconds, and not after `expires`
    seconds.
    """
    how = How(priority=priority)
    if key is not None:
        how["key"] = key
    if delay is not None:
        how["delay"] = delay
    if expires is not None:
        how["expires"] = expires
    task = await ctx.fabric.agent(agent).start(tool, arguments, **how)
    return {"id": task.id, "agent": task.agent, "tool": tool, "joined": task.joined}


@agent.tool(annotations=READS)
async def list_tasks(
    ctx: Context, agent: str | None = None, state: State | None = None, limit: Limit = 100
) -> list[dict[str, Any]]:
    """Tasks of one agent or all, in one state or any, the newest last; without results."""
    found = await tasks.listed(ctx.fabric, agent=_whose(agent), state=state, limit=limit)
    return [tasks.summary(record) for record in found]


@agent.resource("tasks://latest", description="The newest tasks of all agents, the newest last; without results.")
async def latest_tasks(ctx: Context) -> list[dict[str, Any]]:
    return await list_tasks(ctx)


@agent.tool(annotations=READS)
async def show_task(ctx: Context, id: str) -> dict[str, Any]:
    """How one task stands: its state, its attempts and their errors, its result."""
    return tasks.everything(await (await tasks.located(ctx.fabric, id)).status())


@agent.tool(annotations=DESTROYS)
async def cancel_task(ctx: Context, id: str) -> dict[str, Any]:
    """End a task, unless it has ended; tells how it ended."""
    return tasks.summary(await (await tasks.located(ctx.fabric, id)).cancel())


@agent.tool(annotations=READS)
async def list_dead(
    ctx: Context,
    agent: str | None = None,
    tool: str | None = None,
    error: str | None = None,
    before: float | None = None,
    after: int = 0,
    limit: Limit = 100,
) -> Page[dict[str, Any]]:
    """Tasks that failed for good, oldest first, each with its last error.

    Filters: agent, tool, a part of the last error, and a Unix time in seconds before which they died. If there are
    `more`, the next ones come `after` the `sequence` of the last.
    """
    found = ctx.fabric.dead.find(_which(agent, tool, error, before), after=after)
    return await page((letters.summary(letter) async for letter in found), limit)


@agent.resource("dead://oldest", description="Tasks that failed for good, the oldest first, each with its last error.")
async def oldest_dead(ctx: Context) -> Page[dict[str, Any]]:
    return await list_dead(ctx)


@agent.tool(annotations=READS)
async def show_dead(ctx: Context, id: str) -> DeadLetter:
    """One dead letter: the message, and of each attempt its error, worker, time and trace."""
    return await ctx.fabric.dead.show(id)


@agent.tool(annotations=CHANGES)
async def redrive_dead(
    ctx: Context,
    ids: list[str] | None = None,
    everything: bool = False,
    agent: str | None = None,
    tool: str | None = None,
    error: str | None = None,
    before: float | None = None,
) -> Handled:
    """Try dead tasks again: those of these ids, or with `everything` all that fit the filters (as in `list_dead`)."""
    which = _which(agent, tool, error, before)
    return await letters.redrive(ctx.fabric, chosen(ctx.fabric, ids or (), which, everything=everything))


@agent.tool(annotations=DESTROYS)
async def purge_dead(
    ctx: Context,
    ids: list[str] | None = None,
    everything: bool = False,
    agent: str | None = None,
    tool: str | None = None,
    error: str | None = None,
    before: float | None = None,
) -> Handled:
    """Forget dead letters: those of these ids, or with `everything` all that fit the filters (as in `list_dead`)."""
    which = _which(agent, tool, error, before)
    return await letters.purge(ctx.fabric, chosen(ctx.fabric, ids or (), which, everything=everything))


@agent.tool(annotations=READS)
async def list_schedules(ctx: Context, agent: str | None = None, limit: Limit = 100) -> Page[dict[str, Any]]:
    """Schedules of one agent or all, then tasks that wait for their time, each with the Unix time when it is `next`.

    Tells whether there are `more`.
    """
    found = ctx.fabric.schedules.find(_whose(agent))
    return await page((with_next(schedule, time.time()) async for schedule in found), limit)


@agent.tool(annotations=DESTROYS)
async def set_schedule(
    ctx: Context,
    agent: str,
    name: str,
    when: str,
    tool: str,
    arguments: dict[str, Any] | None = None,
    zone: str | None = None,
    priority: Priority = "normal",
) -> None:
    """Start a tool again and again, in place of any schedule of this name.

    `when` is `every 90s`, a cron expression of five fields or six (in `zone`, like Europe/Rome), or `@daily`.
    """
    await ctx.fabric.agent(agent).schedule(name, when, tool, arguments, zone=zone, priority=priority)


@agent.tool(annotations=DESTROYS)
async def remove_schedule(ctx: Context, agent: str, name: str) -> None:
    """Let a schedule never fire again."""
    if not await ctx.fabric.schedules.remove(checked_address(agent), name):
        raise UnknownName(f"agent {agent!r} has no schedule {name!r}")


@agent.tool(annotations=ADDS)
async def publish_event(
    ctx: Context, topic: str, data: Any, id: str | None = None, subject: str | None = None
) -> dict[str, Any]:
    """Tell what happened; returns the event. Published again with the same `id` within two minutes, it is the same."""
    return past.shown(await ctx.fabric.publish(topic, data, id=id, subject=subject))


@agent.tool(annotations=READS)
async def replay_events(
    ctx: Context,
    topics: list[str] | None = None,
    since: datetime | None = None,
    after: int = 0,
    filter: str | None = None,
    limit: Limit = 100,
) -> Page[dict[str, Any]]:
    """Events that happened, oldest first: of these topics or all, `since` a time.

    In `topics`, `*` stands for one word, `>` at the end for the rest; `filter` is a CEL expression over `event` and
    `data`. If there are `more`, the next ones come `after` the `sequence` of the last.
    """
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    start = after + 1 if after else since
    return await past.replayed(ctx.fabric, topics or [">"], start=start, only=filter, limit=limit)


@agent.tool(annotations=READS)
async def list_schemas(ctx: Context, topics: str = ">", limit: Limit = 100) -> Page[Schema]:
    """Every version of the schemas of these topics, oldest first; tells whether there are `more`.

    In `topics`, `*` stands for one word, `>` at the end for the rest.
    """
    return await page(ctx.fabric.schemas.find(checked_pattern(topics)), limit)


@agent.tool(annotations=CHANGES)
async def register_schema(
    ctx: Context, topic: str, schema: dict[str, Any], compatibility: Compatibility | None = None
) -> Schema:
    """Make this the latest version of a topic's schema, unless it would break readers."""
    return await ctx.fabric.schemas.register(topic, schema, compatibility)


def _whose(agent: str | None) -> str:
    return "*" if agent is None else checked_address(agent)


def _which(agent: str | None, tool: str | None, error: str | None, before: float | None) -> Which:
    return Which(agent=_whose(agent), tool=tool, error=error, before=before)
