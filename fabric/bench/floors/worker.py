"""A worker with nats-py alone: `python -m fabric.bench.floors.worker READY SIZE`. Says back what it gets.

Above: `ground`. Below: nats-py, with its defaults. Answers have at least SIZE bytes, to weigh what the product's do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

import uvloop
from nats.aio.client import Client  # noqa: TID251 - the floor is the bare library
from nats.aio.msg import Msg  # noqa: TID251

from fabric.pool.ready import ReadyFile

SUBJECT: Final = "floor.echo"


async def connected(url: str) -> Client:
    """A client with nats-py's defaults."""
    client = Client()
    await client.connect(url)
    return client


async def serve(ready: Path, size: int) -> None:
    """Answer until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await connected(os.environ["FABRIC_NATS_URL"])

    async def answer(message: Msg) -> None:
        await message.respond(message.data.ljust(size))

    await client.subscribe(SUBJECT, queue="pool", cb=answer)  # pyright: ignore[reportUnknownMemberType] - untyped
    await client.flush()
    with ReadyFile.of(ready):
        await stop.wait()
    await client.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
