"""Two agents for load, `mill` and `press`: they work for a moment and say who did it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fabric_sdk import Agent, Context


def named(name: str) -> Agent:
    """An agent of this name."""
    agent = Agent(name, version="1.0.0", description="Works.")

    @agent.tool(annotations={"readOnlyHint": True})
    async def work(text: str, ctx: Context, work: float = 0.1) -> dict[str, Any]:
        """Work for so many seconds; a repetition does no harm."""
        await asyncio.sleep(work)
        return {"text": text, "pid": os.getpid(), "instance": ctx.instance}

    @agent.tool
    async def change(text: str, ctx: Context, work: float = 0.1) -> dict[str, Any]:
        """Work for so many seconds; a repetition might do harm, so each is written down in the file MILL_DONE."""
        _write_down(text)
        await asyncio.sleep(work)
        return {"text": text, "pid": os.getpid(), "instance": ctx.instance}

    return agent


def _write_down(text: str) -> None:
    if "MILL_DONE" in os.environ:
        with Path(os.environ["MILL_DONE"]).open("a") as done:
            done.write(f"{text}\n")


agent = named("mill")
press = named("press")
