"""Streams and broadcasts whose server, connection, process or reader is lost on the way. Proves: PT-4, MB-7."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import psutil
import pytest
from streams.conftest import End, Serve
from streams.wire import way_to
from support.nats_server import PrivateNats
from support.transports import broker_of
from support.waiting import eventually

from fabric_sdk import Agent, Context, Stream
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.patterns import stream as streaming
from fabric_sdk.routing.window import WINDOW, WINDOW_BYTES
from fabric_sdk.transports import nats
from fabric_sdk.transports.base import Transport
from fabric_sdk.worker import Worker

MANY = 10 * WINDOW
"""Messages, many times more than can be on their way at once."""

FLAT = 4 * WINDOW_BYTES
"""Bytes by which a process may grow over a stream: a window kept, one in each of two buffers, one for the allocator."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends in this process look ten times as often, and give up sooner."""
    for constant, seconds in (("TICK", 0.1), ("BEAT_SECONDS", 0.3)):
        monkeypatch.setattr(streaming, constant, seconds)


class Twin:
    """An agent whose one stream sends numbers and keeps what it gets, as a client here does at the same time."""

    def __init__(self) -> None:
        self.agent = Agent(f"twin-{uuid4().hex[:8]}")
        self.there: list[int] = []
        self.here: list[int] = []

        @self.agent.stream
        async def both(stream: Stream) -> None:
            await _talk(stream, self.there)

    async def talk(self, fabric: Fabric) -> None:
        """Send `MANY` in each direction."""
        async with fabric.agent(self.agent.name).open("both") as stream:
            await _talk(stream, self.here)

    async def have(self, count: int) -> None:
        """Return when each end has so many."""
        enough = f"{count} messages at each end"
        await eventually(lambda: min(len(self.here), len(self.there)) >= count, what=enough, seconds=20)

    def check(self) -> None:
        """All came, once and in order."""
        assert self.here == list(range(MANY))
        assert self.there == list(range(MANY))


async def _talk(stream: Stream, got: list[int]) -> None:
    async def send() -> None:
        for number in range(MANY):
            await stream.send(number)
            if number % 16 == 0:  # no faster than a test can get in between
                await asyncio.sleep(0.001)
        await stream.end()

    sending = asyncio.create_task(send())
    async for number in stream:
        got.append(number)  # noqa: PERF401 - seen from outside while it grows
    await sending


def heard(transport: Transport) -> list[str]:
    """The streams that somebody hears over this connection."""
    return [each._subject for each in broker_of(transport)._interests if each._subject.startswith("fab.stream.")]


def streams_of(worker: Worker) -> int:
    return len(worker._streams)  # pyright: ignore[reportPrivateUsage]


# The server and the way to it


async def test_a_server_killed_while_both_ends_send(breakable: PrivateNats, fabric: Fabric, serve: Serve) -> None:
    twin = Twin()
    worker = await serve(twin.agent)
    talking = asyncio.create_task(twin.talk(fabric))
    for count in (WINDOW, 3 * WINDOW, 6 * WINDOW):
        await twin.have(count)
        breakable.kill()
        await asyncio.to_thread(breakable.start)
    await asyncio.wait_for(talking, 30)
    twin.check()
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


async def test_a_server_killed_while_a_reader_stands_still(
    breakable: PrivateNats, fabric: Fabric, serve: Serve
) -> None:
    agent, sent = Agent("flood"), list[int]()

    @agent.stream
    async def flood(stream: Stream) -> None:
        for number in range(MANY):
            await stream.send(number)
            sent.append(number)

    await serve(agent)
    async with fabric.agent("flood").open("flood") as stream:
        await eventually(lambda: len(sent) == WINDOW, what="a sender that waits")
        breakable.kill()
        await asyncio.to_thread(breakable.start)
        await eventually(lambda: fabric.transport.connected, what="the connection")
        assert len(sent) == WINDOW
        assert [number async for number in stream] == list(range(MANY))


@pytest.mark.parametrize("end_cut", ["client", "worker"])
async def test_the_connection_of_one_end_is_cut(server: PrivateNats, serve: Serve, end_cut: str) -> None:
    twin = Twin()
    async with way_to(server.port) as way:
        worker = await serve(twin.agent, way.url if end_cut == "worker" else server.url)
        async with Fabric.connect(way.url if end_cut == "client" else server.url) as fabric:
            talking = asyncio.create_task(twin.talk(fabric))
            for count in (WINDOW, 3 * WINDOW):
                await twin.have(count)
                way.swallow()
                await asyncio.sleep(0.05)  # in which both ends send what nobody gets
                way.cut()
                await asyncio.sleep(0.05)
                way.mend()
            await asyncio.wait_for(talking, 30)
        twin.check()
        await eventually(lambda: not streams_of(worker), what="the end of the stream")
        await worker.drain(0)


async def test_a_server_that_freezes_for_longer_than_its_clients_believe_in_it(
    breakable: PrivateNats, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, seconds in (("_PING_SECONDS", 0.2), ("_CONNECT_SECONDS", 0.5)):
        monkeypatch.setattr(nats, constant, seconds)
    twin, lost = Twin(), asyncio.Event()
    await serve(twin.agent)
    async with Fabric.connect(breakable.url) as fabric:
        fabric.transport.listen(lambda event: lost.set() if event == "disconnected" else None)
        talking = asyncio.create_task(twin.talk(fabric))
        await twin.have(WINDOW)
        breakable.freeze()
        await asyncio.wait_for(lost.wait(), 10)
        breakable.thaw()
        await asyncio.wait_for(talking, 30)
    twin.check()


# The other process


async def test_a_worker_that_is_killed_is_given_up_and_nothing_is_left(
    fabric: Fabric, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "IDLE_SECONDS", 1.0)
    worker = await end("worker")
    tasks = len(asyncio.all_tasks())
    with pytest.raises(errors.StreamLost, match="fell silent"):  # noqa: PT012 - all of it may raise, one of it does
        async with fabric.agent("far").open("late") as stream:
            assert len(heard(fabric.transport)) == 1
            worker.kill()
            await asyncio.wait_for(anext(stream), 5)
    assert heard(fabric.transport) == []
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, what="the end of all tasks")


@pytest.mark.parametrize("does", ["reads", "sends", "waits"])
async def test_a_client_that_is_killed_is_given_up_and_nothing_is_left(
    serve: Serve, end: End, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(streaming, "IDLE_SECONDS", 1.0)
    agent, ended = Agent(f"near-{does}"), asyncio.Event()
    seen: list[bool] = []

    @agent.stream
    async def stay(stream: Stream, context: Context) -> None:
        try:
            while does == "sends":
                await stream.send("more")
            async for _ in stream:
                if does == "waits":
                    await asyncio.Event().wait()
        finally:
            seen.append(context.cancelled)
            ended.set()

    worker = await serve(agent)
    transport = worker._transport  # pyright: ignore[reportPrivateUsage]
    client = await end("client", agent.name, "stay")
    assert (streams_of(worker), len(heard(transport))) == (1, 1)
    client.kill()
    await asyncio.wait_for(ended.wait(), 5)
    assert seen == [True]
    await eventually(lambda: not streams_of(worker), what="the end of the stream")
    assert heard(transport) == []


# Memory


async def test_a_sender_whose_reader_stands_still_does_not_grow(fabric: Fabric, end: End) -> None:
    await end("worker")
    client = fabric.agent("far")
    processes = psutil.Process(await client.call("pid")), psutil.Process()
    arguments = {"size": 20_000, "count": 4_000}

    async def read() -> list[int]:
        """Read all, standing still now and then until the window is full; what the larger process holds then."""
        held: list[int] = []
        async with client.open("flood", arguments) as stream:
            for number in range(arguments["count"]):
                said, value = await anext(stream)
                assert (said, len(value)) == (number, arguments["size"])
                if number % 1000 == 500:
                    await asyncio.sleep(0.1)
                    held.append(max(each.memory_info().rss for each in processes))
            assert [message async for message in stream] == []
        return held

    before = max(await read())  # what an allocator keeps for good is not grown by what comes after
    after = max(await read())
    print(f"grown by {after - before} bytes over {arguments['count'] * arguments['size']}")
    assert after - before < FLAT


async def test_a_reader_that_stands_still_does_not_grow(fabric: Fabric, end: End) -> None:
    await end("worker")
    client = fabric.agent("far")
    far = psutil.Process(await client.call("pid"))
    value, count, sent = "x" * 20_000, 4_000, list[int]()
    before = far.memory_info().rss
    async with client.open("late") as stream:

        async def send() -> None:
            for number in range(count):
                await stream.send([number, value])
                sent.append(number)
            await stream.end()

        sending = asyncio.create_task(send())
        await eventually(lambda: len(sent) * len(value) > WINDOW_BYTES - len(value), what="a window full")
        await asyncio.sleep(0.3)
        assert len(sent) * len(value) <= WINDOW_BYTES + len(value), "the sender waits"
        grown = far.memory_info().rss - before
        print(f"grown by {grown} bytes with {len(sent) * len(value)} unread")
        assert grown < FLAT
        await client.call("let_go")
        assert await anext(stream) == list(range(count))
        await sending
        assert far.memory_info().rss - before < FLAT


# Broadcast


async def test_an_instance_that_stops_costs_the_deadline_and_its_own_answer(breakable: PrivateNats, end: End) -> None:
    for _ in range(3):
        await end("worker")
    async with Fabric.connect(breakable.url) as fabric:
        client = fabric.agent("far")
        instances = sorted(await client.broadcast("pid"))
        assert len(instances) == 3
        answers = await client.broadcast("stop", {"instance": instances[0]}, timeout=1.0)
        assert isinstance(answers.pop(instances[0]), errors.DeadlineExceeded)
        assert answers == {each: each for each in instances[1:]}
        answers = await client.broadcast("pid")
        assert sorted(answers) == instances[1:], "who is stopped when they are counted is not there"
