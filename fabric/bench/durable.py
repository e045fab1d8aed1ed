"""`task.*`, `event.*`, `stream.*`: what is kept or ordered, beside nats-py doing the same job with the same durability.

Above: `suite`. Below: the SDK's client, `ground`. Both sides run on uvloop and go through the same nats-server, which
syncs before it acknowledges.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final, NamedTuple
from uuid import uuid4

from nats.aio.client import Client  # noqa: TID251 - the floor is the bare library
from nats.aio.msg import Msg  # noqa: TID251

from fabric.bench.comparison import Benchmark, BenchmarkFailed, Sample, Sides
from fabric.bench.drive import throughput
from fabric.bench.echo import TEXT, agent
from fabric.bench.floors import durable as bare
from fabric.bench.floors.worker import connected
from fabric.bench.ground import Ground
from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.event import Event
from fabric_sdk.contracts.streams import EVENTS

IN_FLIGHT: Final = 128
_TIMEOUT: Final = 30.0
_EVENTS: Final = 10_000
_MESSAGES: Final = 20_000
_BATCH: Final = 500
_TOPIC: Final = "bench.echo"
_DATA: Final = {"text": TEXT}
_ENCODED: Final = Body({"name": "echo", "arguments": _DATA}).encoded()


class _Both(NamedTuple):
    fabric: Fabric
    client: Client


@asynccontextmanager
async def _both() -> AsyncGenerator[_Both]:
    async with Ground.open() as ground:
        await ground.start_worker()
        await ground.start_floor_program("durable")
        async with Fabric.connect(ground.nats_url) as fabric:
            client = await connected(ground.nats_url)
            try:
                yield _Both(fabric, client)
            finally:
                await client.close()


@asynccontextmanager
async def _start() -> AsyncGenerator[Sides]:
    async with _both() as (fabric, client):
        jetstream: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped
        nobody = fabric.agent("nobody")

        async def product() -> bool:
            return not (await nobody.start("echo", _DATA)).joined

        async def floor() -> bool:
            name = uuid4().hex
            stored = await jetstream.publish(f"{bare.EVENTS}.{name}", _ENCODED, headers={"Nats-Msg-Id": name})
            return not stored.duplicate

        yield Sides(throughput(product, in_flight=IN_FLIGHT), throughput(floor, in_flight=IN_FLIGHT))


@asynccontextmanager
async def _run() -> AsyncGenerator[Sides]:
    async with _both() as (fabric, client):
        jetstream: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped
        echo = fabric.agent(agent.name)
        waiting: dict[str, asyncio.Future[bytes]] = {}

        async def product() -> bool:
            task = await echo.start("echo", _DATA)
            return await task.result(timeout=_TIMEOUT) == TEXT

        async def hear(message: Msg) -> None:
            if (answer := waiting.pop(message.subject.rpartition(".")[2], None)) is not None:
                answer.set_result(message.data)

        async def floor() -> bool:
            name = uuid4().hex
            answer = waiting[name] = asyncio.get_running_loop().create_future()
            await jetstream.publish(f"{bare.QUEUE}.{name}", _ENCODED, headers={"Nats-Msg-Id": name})
            return await asyncio.wait_for(answer, _TIMEOUT) == _ENCODED

        await client.subscribe(f"{bare.ANSWERS}.*", cb=hear)  # pyright: ignore[reportUnknownMemberType] - untyped
        yield Sides(throughput(product, in_flight=IN_FLIGHT), throughput(floor, in_flight=IN_FLIGHT))


@asynccontextmanager
async def _publish() -> AsyncGenerator[Sides]:
    async with _both() as (fabric, client):
        jetstream: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped

        async def product() -> bool:
            return (await fabric.publish(_TOPIC, _DATA)).sequence > 0

        async def floor() -> bool:
            event = _event().message()
            stored = await jetstream.publish(
                f"{bare.EVENTS}.echo", event.body.encoded(), headers=dict(event.headers or {})
            )
            return stored.seq > 0

        yield Sides(throughput(product, in_flight=IN_FLIGHT), throughput(floor, in_flight=IN_FLIGHT))


@asynccontextmanager
async def _consume() -> AsyncGenerator[Sides]:
    """Each turn fills the streams, and measures how long a new group takes to read and acknowledge all of it."""
    async with _both() as (fabric, client):
        jetstream: Any = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped
        events = [_event().message() for _ in range(_BATCH)]
        await fabric.jetstream.ensure(EVENTS)

        async def fill(subject: Callable[[Message], str]) -> None:
            for _ in range(_EVENTS // _BATCH):
                fresh = [Message(subject(each), each.body, headers=_fresh(each)) for each in events]
                await asyncio.gather(*(fabric.jetstream.store(m.subject, m.body, m.headers) for m in fresh))

        async def product(seconds: float) -> Sample:
            await fabric.jetstream.purge(EVENTS, "fab.event.>")
            await fill(lambda event: event.subject)
            begin, seen = perf_counter(), 0
            async with fabric.subscribe(_TOPIC, group=uuid4().hex, start="all") as subscribed:
                async for event in subscribed:
                    seen += event.data == _DATA
                    if seen == _EVENTS:
                        break
            return Sample(seen / (perf_counter() - begin), seen)

        async def floor(seconds: float) -> Sample:
            await jetstream.purge_stream("FLOOR_EVENTS")
            await fill(lambda event: f"{bare.EVENTS}.echo")
            begin, seen = perf_counter(), 0
            pull = await jetstream.pull_subscribe(f"{bare.EVENTS}.echo", durable=uuid4().hex)
            while seen < _EVENTS:
                for message in await pull.fetch(100, timeout=_TIMEOUT):
                    seen += Body(encoded=message.data).value() == _DATA
                    await message.ack()
            return Sample(seen / (perf_counter() - begin), seen)

        yield Sides(product, floor)


@asynccontextmanager
async def _stream() -> AsyncGenerator[Sides]:
    async with _both() as (fabric, client):

        async def product(seconds: float) -> Sample:
            begin = perf_counter()
            async with fabric.agent(agent.name).open("count") as stream:
                for _ in range(_MESSAGES):
                    await stream.send(_DATA)
                await stream.end()
                counted = [each async for each in stream]
            return _sample(counted[-1], perf_counter() - begin)

        async def floor(seconds: float) -> Sample:
            begin = perf_counter()
            for _ in range(_MESSAGES):
                await client.publish(bare.COUNTED, Body(_DATA).encoded())
            counted = 0
            while counted < _MESSAGES:
                counted += int((await client.request(bare.COUNT, timeout=_TIMEOUT)).data)
            return _sample(counted, perf_counter() - begin)

        yield Sides(product, floor)


def _sample(counted: int, took: float) -> Sample:
    if counted != _MESSAGES:
        raise BenchmarkFailed(f"{counted} of {_MESSAGES} messages came")
    return Sample(counted / took, counted)


def _event() -> Event:
    return Event(_TOPIC, Body(_DATA), id=uuid4().hex, source="/clients")


def _fresh(message: Message) -> dict[str, str]:
    return {**(message.headers or {}), "Nats-Msg-Id": uuid4().hex}


TASK_START = Benchmark(name="task.start", unit="tasks/s", sides=_start)
TASK_RUN = Benchmark(name="task.run", unit="tasks/s", sides=_run)
EVENT_PUBLISH = Benchmark(name="event.publish", unit="events/s", sides=_publish)
EVENT_CONSUME = Benchmark(name="event.consume", unit="events/s", sides=_consume)
STREAM_MESSAGES = Benchmark(name="stream.messages", unit="messages/s", sides=_stream)
