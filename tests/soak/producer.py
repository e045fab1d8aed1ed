"""A producer of the soak: `python producer.py URL FIRST COUNT RATE`; prints the number of each task that was accepted.

Every key is started twice, as by a client that is not sure whether the first attempt came through.
"""

from __future__ import annotations

import asyncio
import random
import sys

import uvloop

from fabric_sdk import Fabric, FabricError


async def main(url: str, numbers: range, rate: float) -> None:
    """Start the tasks, so many a second, each until it is accepted."""
    async with Fabric.connect(url) as fabric, asyncio.TaskGroup() as group:
        crew = fabric.agent("crew")

        async def start(number: int) -> None:
            for _ in range(2):
                while True:
                    try:
                        await crew.start("work", {"number": number}, key=f"key-{number}")
                        break
                    except FabricError:
                        await asyncio.sleep(random.uniform(0.1, 0.5))
            print(number, flush=True)

        for number in numbers:
            group.create_task(start(number))
            await asyncio.sleep(1 / rate)


if __name__ == "__main__":
    url, first, count, rate = sys.argv[1:]
    uvloop.run(main(url, range(int(first), int(first) + int(count)), float(rate)))
