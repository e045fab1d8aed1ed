"""An agent that asks, and tells under which key it was called."""

from __future__ import annotations

from fabric_sdk import Agent, Context

agent = Agent("asker")


@agent.tool
async def size(ctx: Context) -> str:
    """Ask for a size."""
    answer = await ctx.elicit("Which size?", {"type": "object", "properties": {"size": {"type": "string"}}})
    return f"{answer.action}: {answer.content}"


@agent.tool
async def key(ctx: Context) -> str | None:
    """Tell the key of this call."""
    return ctx.key
