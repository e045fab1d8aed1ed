"""One end of a stream in a process of its own, that a test may stop or kill.

`python ends.py worker <nats url>` serves the agent `far`; `python ends.py client <nats url> <agent> <stream>` opens a
stream and stays. Both print `ready`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from fabric_sdk import Agent, Context, Fabric, Policy, Stream
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

agent = Agent("far")
go = asyncio.Event()


@agent.tool
async def pid() -> int:
    return os.getpid()


@agent.tool
async def let_go() -> None:
    go.set()


@agent.tool
async def stop(context: Context, instance: str) -> str:
    """Stop this process, if it is that instance."""
    if context.instance == instance:
        os.kill(os.getpid(), signal.SIGSTOP)
    return context.instance


@agent.tool(task=Policy(attempts=3, first_wait=0.01))
async def remember(context: Context, conversation: str, value: Any) -> int:
    """Append, and die before the end of the first attempt."""
    assert context.task is not None
    version = await context.fabric.conversation(conversation).append(value)
    if context.task.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return version


@agent.stream
async def flood(stream: Stream) -> None:
    """Send numbered messages of this size, as many as are wanted."""
    value = "x" * stream.arguments["size"]
    for number in range(stream.arguments["count"]):
        await stream.send([number, value])


@agent.stream
async def late(stream: Stream) -> None:
    """Read nothing until it is let go, and then tell the numbers of all that came."""
    await go.wait()
    await stream.send([number async for number, _ in stream])


async def serve() -> None:
    await Worker(await NatsTransport.connect(sys.argv[2]), agent).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def talk() -> None:
    async with Fabric.connect(sys.argv[2]) as fabric, fabric.agent(sys.argv[3]).open(sys.argv[4]) as stream:
        await stream.send("here")
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run({"worker": serve, "client": talk}[sys.argv[1]]())
