"""The agent `access`: API keys and mounts, for the commands `fabric token|mount|unmount|mounts` and for operators, and
what the policy says.

Above: `fabric.platform`, which runs it beside `durable`. Below: the tables that every gateway follows, and the
policy's files. It holds nothing, so any number of instances share the work.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from fabric.access.mounts import Globs, Mount, MountStore, Prefix
from fabric.hints import ADDS, CHANGES, DESTROYS, READS
from fabric.identity.identity import Listing
from fabric.identity.keys import KeyStore, Name, Word, new_key
from fabric.live import current_live
from fabric.policy.cases import SOMEBODY, Somebody, checked_act
from fabric.policy.explain import explain
from fabric.policy.files import DEFAULT, parse
from fabric.policy.matching import Verb
from fabric.policy.pages import Source, read
from fabric_sdk import Agent, ConfigurationError, Context, Reject, ToolError
from fabric_sdk.contracts.description import AgentName

_CENTURY: Final = 36_525 * 86_400

agent = Agent(
    "access",
    version="1.0.0",
    description="Looks after who may what: API keys, which agents' tools are mounted where, what the policy says.",
    kind="platform",
)


@agent.tool(annotations=ADDS)
async def create_token(
    ctx: Context,
    name: Name,
    agent: AgentName | None = None,
    roles: list[Word] | None = None,
    scopes: list[Word] | None = None,
    seconds: Annotated[float | None, Field(gt=0, le=_CENTURY, description="After which it expires.")] = None,
    listing: Listing = "all",
) -> dict[str, Any]:
    """Make an API key; its `token` is in this answer and nowhere else.

    With an agent, it is that agent's and opens its compositor; else it is a person's, called by its name.
    """
    if ctx.task is not None:  # a task's result is kept, and read by others
        raise Reject("a token is not made by a task, whose result is kept", fix="call create_token")
    key, token = new_key(name, agent=agent, roles=roles or (), scopes=scopes or (), seconds=seconds, listing=listing)
    await KeyStore(ctx.fabric.jetstream).add(key)
    return key.summary() | {"token": token}


@agent.tool(annotations=READS)
async def list_tokens(ctx: Context) -> list[dict[str, Any]]:
    """All API keys, the oldest first, without their secrets; times are Unix times in seconds."""
    return [key.summary() for key in await KeyStore(ctx.fabric.jetstream).all()]


@agent.tool(annotations=DESTROYS)
async def revoke_token(ctx: Context, id: str) -> dict[str, Any]:
    """Let a key open nothing from now on, at any gateway; tells whose it was."""
    return (await KeyStore(ctx.fabric.jetstream).remove(id)).summary()


@agent.tool(annotations=CHANGES)
async def mount(ctx: Context, agent: AgentName, prefix: Prefix, target: AgentName, tools: Globs | None = None) -> Mount:
    """Show the target's tools to whoever holds a token of the agent, as `<prefix>_<tool>`: all, or those that match."""
    mounted = Mount(agent=agent, prefix=prefix, target=target, tools=tools)
    await MountStore(ctx.fabric.jetstream).add(mounted)
    return mounted


@agent.tool(annotations=DESTROYS)
async def unmount(ctx: Context, agent: AgentName, prefix: Prefix) -> Mount:
    """Show them no more; tells what was mounted."""
    return await MountStore(ctx.fabric.jetstream).remove(agent, prefix)


@agent.tool(annotations=READS)
async def list_mounts(ctx: Context, agent: AgentName | None = None) -> list[Mount]:
    """Mounts of one agent or all, the oldest first."""
    return await MountStore(ctx.fabric.jetstream).all(agent or "*")


class PolicyFile(BaseModel):
    """One of the policy's files."""

    file: str
    text: str


@agent.tool(annotations=READS)
async def show_policy() -> list[PolicyFile]:
    """The files that say who may do what; who wants to know why something is not allowed asks `explain_policy`."""
    return [PolicyFile(file=each.name, text=each.data.decode(errors="replace")) for each in await _sources()]


@agent.resource("policy://files", description="The files that say who may do what.")
async def policy_files() -> list[PolicyFile]:
    return await show_policy()


@agent.tool(annotations=READS)
async def explain_policy(
    verb: Verb,
    target: Annotated[str, Field(description="A tool, a prompt or a resource's URI as agent/name; or a topic.")],
    arguments: Annotated[Any, Field(description="Of the call, or an event's data.")] = None,
    principal: Annotated[str, Field(description="Who asks.")] = SOMEBODY,
    agent: Annotated[AgentName | None, Field(description="Whose token it is, where it is an agent's.")] = None,
    roles: list[Word] | None = None,
    scopes: list[Word] | None = None,
) -> dict[str, Any]:
    """What the policy's files decide of an act, by which rule, and what became of the others."""
    who = Somebody(principal, agent, frozenset(roles or ()), frozenset(scopes or ()))
    sources = await _sources()
    try:
        act, policy = checked_act(verb, target), await asyncio.to_thread(parse, sources)
    except ConfigurationError as wrong:
        raise ToolError(str(wrong)) from None
    return explain(policy, who, act, {} if arguments is None else arguments).told()


async def _sources() -> tuple[Source, ...]:
    """The files that this process is told of, as they are now."""
    live = current_live.get(None)
    path: Path = (live.settings.policy if live else None) or DEFAULT
    try:
        return await asyncio.to_thread(read, path)
    except ConfigurationError as wrong:
        raise ToolError(str(wrong)) from None
