"""The workers of the soak: `python crew.py URL`. Each task has one effect: an event that says its number."""

from __future__ import annotations

import asyncio
import random
import signal
import sys

import uvloop

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Limits, Worker

agent = Agent("crew")


@agent.tool(task=Policy(attempts=50, first_wait=0.2, longest_wait=2.0))
async def work(number: int, ctx: Context) -> int:
    """Take a moment, and have one effect."""
    await ctx.once("think", lambda: asyncio.sleep(random.uniform(0, 0.05), number))
    await ctx.fabric.publish("soak.effect", {"number": number})
    return number


async def main(url: str) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    transport = await NatsTransport.connect(url)
    worker = Worker(transport, agent, limits=Limits(tasks=32))
    await worker.start()
    await stop.wait()
    await worker.drain(10.0)
    await transport.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
