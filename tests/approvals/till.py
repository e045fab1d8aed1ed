"""An agent whose payments a person has to allow."""

from __future__ import annotations

from fabric_sdk import Agent, Context

agent = Agent("till")


@agent.tool
async def pay(ctx: Context, amount: int) -> str:
    return f"paid {amount} for {ctx.principal}"
