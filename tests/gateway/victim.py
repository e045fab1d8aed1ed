"""An agent whose tools end badly, each in its own way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from fabric_sdk import Agent

agent = Agent("victim")


@agent.tool
async def ok() -> int:
    """Work."""
    return os.getpid()


@agent.tool
async def die() -> None:
    """Kill the process, in the middle of work that must not be done twice."""
    os.kill(os.getpid(), signal.SIGKILL)


@agent.tool(annotations={"idempotentHint": True})
def die_once(mark: Path) -> int:
    """Kill the process the first time; the second time, work."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@agent.tool
async def leave() -> None:
    """End the program."""
    sys.exit(3)


@agent.tool
async def cancel() -> None:
    """Raise what asyncio raises to cancel a task."""
    raise asyncio.CancelledError


@agent.tool
async def raise_group() -> None:
    """Fail in two ways at once."""
    raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])


@agent.tool
async def raise_with_bytes() -> None:
    """Fail with a message that is no text for a header."""
    raise RuntimeError("line one\r\nline two \x00 é \ud800" + "x" * 10_000)


@agent.tool
async def wrong_type() -> int:
    """Return what the return type does not allow."""
    answer: Any = "not a number"
    return answer


@agent.tool
async def unencodable() -> Any:
    """Return what has no JSON form."""
    return {"socket": object()}


@agent.tool
async def not_a_number() -> dict[str, float]:
    """Return a float that JSON does not have."""
    return {"value": float("nan")}


@agent.tool
async def huge_integer() -> int:
    """Return more than 64 bits."""
    return 2**80


@agent.tool
async def broken_text() -> str:
    """Return half a surrogate pair."""
    return "\ud800"


@agent.tool
async def endless() -> Any:
    """Return what holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


@agent.tool
async def too_large() -> str:
    """Return more than the broker takes."""
    return "x" * (9 * 1024 * 1024)


@agent.tool
def stubborn() -> None:
    """Hang in a thread, where nothing can be cancelled."""
    threading.Event().wait(5)


@agent.tool
def leave_from_a_thread() -> None:
    """End the program, from a function that runs in a thread."""
    sys.exit("enough")
