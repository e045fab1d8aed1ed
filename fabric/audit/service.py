"""The agent `audit`: who did what, for operators, as `fabric audit` shows it.

Above: `fabric.platform`, which runs it beside `durable`. Below: `reading`. It only reads; nobody is offered to write,
nor to remove anything.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Final

from pydantic import Field

from fabric.audit.entry import Outcome
from fabric.audit.reading import Verdict, Wanted, found, newest, place_of, verified
from fabric.hints import READS
from fabric_sdk import Agent, Context

_MOST_WRONG: Final = 100
"""Findings and heads in an answer, which has to fit into a message."""

Limit = Annotated[int, Field(ge=1, le=1000, description="At most so many.")]
Moment = Annotated[float | None, Field(description="Unix time in seconds.")]
Place = Annotated[str | None, Field(description="The `id` of an entry: those after it, the oldest first.")]

agent = Agent(
    "audit",
    version="1.0.0",
    description="Tells who did what, and whether the log of it is as it was written.",
    kind="platform",
)


@agent.tool(annotations=READS)
async def list_entries(
    ctx: Context,
    since: Moment = None,
    until: Moment = None,
    principal: str | None = None,
    agent: str | None = None,
    outcome: Outcome | None = None,
    after: Place = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    """Entries of the audit log that fit all that is stated: the newest, or those after a place; oldest first."""
    wanted = Wanted(since=since or 0.0, until=until or inf, principal=principal, agent=agent, outcome=outcome)
    if after is None:
        return [noted.shown() for noted in await newest(ctx.fabric.jetstream, wanted, limit)]
    entries: list[dict[str, Any]] = []
    async for noted in found(ctx.fabric.jetstream, wanted, after=place_of(after)):
        entries.append(noted.shown())
        if len(entries) == limit:
            break
    return entries


@agent.resource("audit://latest", description="The newest entries of the audit log, the newest last.")
async def latest_entries(ctx: Context) -> list[dict[str, Any]]:
    return await list_entries(ctx)


@agent.tool(annotations=READS)
async def verify(ctx: Context) -> Verdict:
    """Look at the whole log, and tell what was removed or changed, and how far each writer has come."""
    return (await verified(ctx.fabric.jetstream)).first(_MOST_WRONG)
