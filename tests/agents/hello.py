"""An agent for tests: says things back, counts slowly, fails in every way."""

from __future__ import annotations

import asyncio
import os
import signal

from fabric_sdk import Agent, Context, ToolError

agent = Agent("hello", version="1.2.3", description="Says things back.")


@agent.tool(annotations={"readOnlyHint": True})
async def echo(text: str) -> str:
    """Say it back."""
    return text


@agent.tool(annotations={"readOnlyHint": True})
async def whoami(ctx: Context, wait: float = 0.0) -> dict[str, str | int]:
    """Tell which instance answers, after `wait` seconds."""
    await asyncio.sleep(wait)
    return {"instance": ctx.instance, "pid": os.getpid(), "principal": ctx.principal or ""}


@agent.tool
async def count(to: int, ctx: Context, pause: float = 0.05) -> int:
    """Count up, reporting progress."""
    for number in range(1, to + 1):
        await ctx.progress(number, to, f"at {number}")
        await asyncio.sleep(pause)
    return to


@agent.tool
async def refuse(reason: str) -> None:
    """Report an error in words."""
    raise ToolError(reason)


@agent.tool
async def crash() -> None:
    """Raise something unexpected."""
    raise RuntimeError("something unexpected")


@agent.tool
async def hang() -> None:
    """Never return."""
    await asyncio.Event().wait()


@agent.tool
async def die() -> None:
    """Kill the worker's own process."""
    os.kill(os.getpid(), signal.SIGKILL)


@agent.tool
async def unencodable() -> object:
    """Return what has no JSON form."""
    return object()


@agent.resource("notes://{day}", mime_type="text/plain")
def note(day: str) -> str:
    """The note of a day."""
    return f"note of {day}"


@agent.prompt
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}."


@agent.completion("greet", "name")
@agent.completion("notes://{day}", "day")
def complete(typed: str) -> list[str]:
    """Two that begin so."""
    return [f"{typed}a", f"{typed}b"]
