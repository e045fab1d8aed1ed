"""An agent whose tools run as tasks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fabric_sdk import Agent, Context, Policy, Reject, ToolError

agent = Agent("jobs")
SOON = Policy(mcp="optional", attempts=3, first_wait=0.01)


@agent.tool(task=SOON)
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@agent.tool(task=SOON)
async def wait_for(path: str, ctx: Context) -> dict[str, Any]:
    """Wait until there is a file, and tell who waited; who does so now is written beside it."""
    assert ctx.task is not None, "this is a call"
    await ctx.progress(1, 2, "half-way")
    await asyncio.to_thread(Path(path + ".pid").write_text, f"{os.getpid()}")
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - nobody in this process knows when
        await asyncio.sleep(0.02)
    return {"attempt": ctx.task.attempt, "principal": ctx.principal}


@agent.tool(task=Policy(mcp="required"))
async def only_task(ctx: Context) -> str | None:
    """Tell the id of the task that this is."""
    return ctx.task.id if ctx.task else None


@agent.tool(task=SOON)
async def refuse() -> None:
    """Report an error in words."""
    raise ToolError("not today")


@agent.tool(task=SOON)
async def reject() -> None:
    """Fail for good."""
    raise Reject("never")


@agent.tool(task=Policy())
async def plain(ctx: Context) -> bool:
    """Tell whether this is a task."""
    return ctx.task is not None
