"""An agent whose tools run as tasks: they end, last, or fail until a file says that all is mended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fabric_sdk import Agent, Context, Policy, ToolError

agent = Agent("crew", version="1.0.0", capabilities={"sums"}, labels={"team": "tests"})


@agent.tool
async def add(a: int, b: int = 0) -> int:
    """Add up."""
    return a + b


@agent.tool
async def slow(seconds: float, ctx: Context) -> str:
    """Take a while."""
    for passed in range(round(seconds * 10)):
        await ctx.progress(passed, seconds * 10)
        await asyncio.sleep(0.1)
    return "slept"


@agent.tool
async def refuse(reason: str) -> None:
    """Report an error in words."""
    raise ToolError(reason)


@agent.tool(task=Policy(attempts=2, first_wait=0.01))
def pay(to: str) -> str:
    """Fail until the file that `MENDED` names exists."""
    if not Path(os.environ["MENDED"]).exists():
        raise ValueError(f"no money for {to}")
    return f"paid {to}"
