"""An agent for whoever watches: quick, slow, lost, and in the way of all else."""

from __future__ import annotations

import asyncio
import time

from fabric_sdk import Agent
from fabric_sdk.contracts.errors import Reject

agent = Agent("shown", version="1.0.0")


@agent.tool(annotations={"readOnlyHint": True})
async def look() -> str:
    """Be quick."""
    return "seen"


@agent.tool(annotations={"readOnlyHint": True})
async def look_again() -> str:
    """As `look`, for who looks too often."""
    return "seen"


@agent.tool
async def change() -> str:
    """Be no reading."""
    return "changed"


@agent.tool
async def hang() -> None:
    """Never return."""
    await asyncio.Event().wait()


@agent.tool
async def block() -> None:
    """Do what no coroutine may: hold up the whole process."""
    time.sleep(0.8)  # noqa: ASYNC251 - it is the point; long, for whoever blocks it again only after a while


@agent.tool
async def doom() -> None:
    """As a task, die at the first attempt."""
    raise Reject("it cannot be done")
