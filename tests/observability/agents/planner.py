"""An agent that has others do its work."""

from __future__ import annotations

from fabric_sdk import Agent, Context, ToolError

agent = Agent("planner")


@agent.tool
async def plan(ctx: Context, secret: str) -> str:
    """Call one agent and a foreign server, and start a task."""
    reader = ctx.fabric.agent("reader")
    text = await reader.call("read", {"secret": secret})
    shouted = await ctx.fabric.agent("shouter").call("shout", {"text": text})
    await (await reader.start("index", {"secret": secret})).result()
    return str(shouted)


@agent.tool
async def fail(secret: str) -> str:
    """Fail in words that quote what was asked."""
    raise ToolError(f"no luck with {secret}")
