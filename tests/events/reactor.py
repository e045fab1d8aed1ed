"""A worker of an agent that reacts to each event `<word>.job` with an event `<word>.done`: `reactor.py URL WORD`."""

from __future__ import annotations

import asyncio
import sys

from fabric_sdk import Agent, Context, Event, Policy
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker


def reacting(word: str) -> Agent:
    """The agent."""
    agent = Agent(word)

    @agent.on(f"{word}.job", task=Policy(attempts=5, first_wait=0.05))
    async def do(event: Event, ctx: Context) -> None:
        await ctx.fabric.publish(f"{word}.done", event.data)
        await asyncio.sleep(0.02)  # here, most are killed

    return agent


async def main(url: str, word: str) -> None:
    """Say `ready`, then work until killed."""
    worker = Worker(await NatsTransport.connect(url), reacting(word))
    await worker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
