"""The agent that the load is for: it does next to nothing, so what is measured is the fabric."""

from __future__ import annotations

from fabric_sdk import Agent, Context, Policy

agent = Agent("work", version="1.0.0")


@agent.tool(annotations={"readOnlyHint": True})
async def echo(text: str) -> str:
    """Say it back."""
    return text


@agent.tool(task=Policy(attempts=10, mcp="optional"), annotations={"idempotentHint": True})
async def add(a: int, b: int) -> int:
    """Add: as a call, or as a task."""
    return a + b


@agent.tool(annotations={"readOnlyHint": True})
async def count(to: int, ctx: Context) -> int:
    """Count, telling how far it is."""
    for number in range(1, to + 1):
        await ctx.progress(number, to)
    return to
