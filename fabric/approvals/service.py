"""The agent `approvals`: what waits for a person, granted or refused, for operators and for who has a rule's role.

Above: `fabric.platform`, which runs it beside `access`. Below: the store and the policy. It holds nothing, so any
number of instances share the work; each looks now and then for questions that have expired, and for decisions that a
crash left half done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from fabric.approvals.model import Answer, Approval, Grant, State
from fabric.approvals.store import AGENT, QUESTIONS, WAITING, Approvals, approval_in
from fabric.hints import CHANGES, DESTROYS, READS
from fabric.identity.identity import OPERATOR, Identity
from fabric.live import current_live
from fabric.policy import PolicyKeeper
from fabric_sdk import Agent, Context, Fabric, FabricError
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts.errors import InvalidParams, UnknownTask
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.jetstream import Table

log = logging.getLogger(__name__)


_LOOK_SECONDS: Final = 1.0
_LEFT_SECONDS: Final = 3.0
"""Whoever decided has settled it by then, or is gone."""
_MOST_WORDS: Final = 1000

Limit = Annotated[int, Field(ge=1, le=1000, description="At most so many, the newest.")]
Reason = Annotated[str, Field(max_length=_MOST_WORDS, description="For whoever asked.")]
Remember = Annotated[bool, Field(description="For 30 days, whatever the arguments, under this rule as it is.")]


def build(policy: Path | None = None) -> Agent:
    """The agent, under this policy, or that of the settings which its process follows.

    Raises:
        ConfigurationError: that cannot be read.
    """
    if policy is None:
        live = current_live.get()
        keeper = PolicyKeeper(live.settings.policy)
        live.listen(lambda change: keeper.move(change.settings.policy))
    else:
        keeper = PolicyKeeper(policy)

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        table = Table(fabric.jetstream, ACCESS, QUESTIONS)
        running = [
            keep_on(keeper.run, "following the policy"),
            keep_on(table.run, "following what waits for a person"),
            keep_on(lambda: _look(Approvals(fabric), table), "looking after what waits for a person"),
        ]
        try:
            yield
        finally:
            await end(running)

    agent = Agent(
        AGENT,
        version="1.0.0",
        description="Looks after what a person has to allow first: lists, grants and refuses it.",
        lifespan=lifespan,
        kind="platform",
    )

    @agent.tool(annotations=READS)
    async def list_approvals(ctx: Context, state: State | None = "waiting", limit: Limit = 100) -> list[Approval]:
        """What waits for a person, or what is in another state, or all; who asked first comes first."""
        found = [each for each in await Approvals(ctx.fabric).all() if state in (None, each.state)]
        return sorted(found, key=lambda each: each.asked)[-limit:]

    @agent.tool(annotations=READS)
    async def show_approval(ctx: Context, id: str) -> Approval:
        """Who asks for what, by which rule, who may answer, and how it stands."""
        return await Approvals(ctx.fabric).show(id)

    @agent.tool(annotations=CHANGES)
    async def grant(ctx: Context, id: str, remember: Remember = False) -> Approval:
        """Allow a call: this one, or with `remember` all such calls of whoever asked. The call goes on at once."""
        return await _answer(ctx, keeper, id, "granted", remember=remember)

    @agent.tool(annotations=CHANGES)
    async def refuse(ctx: Context, id: str, reason: Reason = "") -> Approval:
        """Refuse a call; whoever waits for it is told why."""
        return await _answer(ctx, keeper, id, "refused", reason=reason)

    @agent.tool(annotations=READS)
    async def list_grants(ctx: Context) -> list[Grant]:
        """What was granted for longer, the oldest first."""
        return await Approvals(ctx.fabric).grants()

    @agent.tool(annotations=DESTROYS)
    async def revoke_grant(ctx: Context, id: str) -> Grant:
        """Ask a person again from now on; tells what was allowed."""
        return await Approvals(ctx.fabric).revoke(id)

    @agent.resource(WAITING, description="What waits for a person.")
    async def waiting(ctx: Context) -> list[Approval]:  # pyright: ignore[reportUnusedFunction]
        return [each for each in await Approvals(ctx.fabric).all() if each.state == "waiting"]

    return agent


def approver(ctx: Context) -> Identity:
    """Who calls. Whoever comes without a principal is on the bus itself, and counts as the operator."""
    if ctx.principal is None:
        return OPERATOR
    return Identity(ctx.principal, roles=ctx.scope.roles)


async def _answer(
    ctx: Context, keeper: PolicyKeeper, id: str, answer: Answer, *, reason: str = "", remember: bool = False
) -> Approval:
    approvals, who = Approvals(ctx.fabric), approver(ctx)
    asked = await approvals.show(id)
    if not keeper.value.may_approve(asked.ask, who, asked.principal):
        if who.principal == asked.principal and not asked.by_asker:
            raise InvalidParams(
                f"{who.principal} asked for this, and the rule {asked.rule!r} lets nobody answer their own request",
                fix="have somebody else answer",
            )
        raise InvalidParams(
            f"{who.principal} may not answer this", fix=f"one of these roles is needed: {', '.join(asked.approvers)}"
        )
    decided = await approvals.answer(id, answer, who.principal, reason=reason, remember=remember)
    try:
        return await approvals.settle(decided)
    except UnknownTask:  # the gateway is about to hold it: who looks after questions settles this
        return decided


async def _look(approvals: Approvals, table: Table) -> None:
    """Expire and settle, until cancelled."""
    while True:
        now = time.time()
        for _, row in table:
            if (each := approval_in(row)) is None or each.settled:
                continue
            late = each.state == "waiting" and now >= each.expires
            left = each.state != "waiting" and now >= each.decided + _LEFT_SECONDS
            if late or left:
                await _settle(approvals, each)
        await asyncio.sleep(_LOOK_SECONDS)


async def _settle(approvals: Approvals, approval: Approval) -> None:
    try:
        await approvals.settle(await approvals.expire(approval.id))
    except UnknownTask:
        return  # it is about to be held
    except FabricError as failure:
        log.warning("approval %s cannot be settled yet: %s", approval.id, failure)
