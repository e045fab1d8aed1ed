"""A worker on JetStream with nats-py alone: `python -m fabric.bench.floors.durable READY`.

Above: `ground`. Below: nats-py, with its defaults. It pulls requests from a work queue, acknowledges, publishes each
answer to a stream; and it counts what comes on a plain subject.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import nats.errors  # noqa: TID251 - the floor is the bare library
import uvloop
from nats.aio.client import Client  # noqa: TID251
from nats.aio.msg import Msg  # noqa: TID251
from nats.js.api import RetentionPolicy, StreamConfig  # noqa: TID251

from fabric.bench.floors.worker import connected
from fabric.pool.ready import ReadyFile
from fabric_sdk.cancelling import end

QUEUE: Final = "floor.queue"
ANSWERS: Final = "floor.answer"
EVENTS: Final = "floor.event"
COUNTED: Final = "floor.counted"
COUNT: Final = "floor.count"
_FETCH: Final = 64


async def make_streams(client: Client) -> None:
    """What the floor keeps: a work queue, answers, events."""
    jetstream: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped
    await jetstream.add_stream(
        StreamConfig(name="FLOOR_QUEUE", subjects=[f"{QUEUE}.*"], retention=RetentionPolicy.WORK_QUEUE)
    )
    await jetstream.add_stream(StreamConfig(name="FLOOR_ANSWERS", subjects=[f"{ANSWERS}.>"]))
    await jetstream.add_stream(StreamConfig(name="FLOOR_EVENTS", subjects=[f"{EVENTS}.>"]))


async def serve(ready: Path) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await connected(os.environ["FABRIC_NATS_URL"])
    await make_streams(client)
    counted = 0

    async def count(message: Msg) -> None:
        nonlocal counted
        counted += 1

    async def tell(message: Msg) -> None:
        nonlocal counted
        await message.respond(b"%d" % counted)
        counted = 0

    await client.subscribe(COUNTED, cb=count)  # pyright: ignore[reportUnknownMemberType] - untyped
    await client.subscribe(COUNT, cb=tell)  # pyright: ignore[reportUnknownMemberType]
    await client.flush()
    working = asyncio.create_task(_work(client))
    with ReadyFile.of(ready):
        await stop.wait()
    await end([working])  # before its connection goes, or its last fetch would end in an error that nobody reads
    await client.close()


async def _work(client: Client) -> None:
    jetstream: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped
    pull = await jetstream.pull_subscribe(f"{QUEUE}.*", durable="worker")

    async def answer(message: Msg) -> None:
        number = message.subject.rpartition(".")[2]
        await jetstream.publish(f"{ANSWERS}.{number}", message.data)
        await message.ack()

    while True:
        try:
            messages = await pull.fetch(_FETCH, timeout=1)
        except nats.errors.TimeoutError:
            continue
        await asyncio.gather(*map(answer, messages))


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
