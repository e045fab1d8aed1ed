"""A member of a durable group that takes one event and keeps it: `member.py URL GROUP TOPIC`."""

from __future__ import annotations

import asyncio
import sys

from fabric_sdk import Fabric


async def main(url: str, group: str, topic: str) -> None:
    """Say `ready`, then what the first event says, then nothing more."""
    async with Fabric.connect(url) as fabric, fabric.subscribe(topic, group=group) as events:
        print("ready", flush=True)
        print((await anext(events)).data, flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
