"""`python starters.py <nats url> <keys>`: on a line on stdin, starts every key; prints what each gave."""

from __future__ import annotations

import asyncio
import json
import sys

from fabric_sdk.client import Fabric


async def start_all(url: str, keys: int) -> None:
    async with Fabric.connect(url) as fabric:
        client = fabric.agent("ledger")

        async def one(number: int) -> object:
            task = await client.start("book", {"number": number}, key=f"key-{number}")
            return await task.result(timeout=40)

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(await asyncio.gather(*(one(number) for number in range(keys)))), flush=True)


if __name__ == "__main__":
    asyncio.run(start_all(sys.argv[1], int(sys.argv[2])))
