"""The supervised NATS connection, while its server is killed, frozen, reconfigured, replaced. Proves: PT-1, CM-2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, cast

import pytest
from support.listener import listener
from support.nats_server import HOST, PrivateNats, private_nats
from support.waiting import Ear, eventually

from fabric_sdk import Agent, Fabric
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.errors import InvalidParams, TransportUnavailable
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

pytestmark = pytest.mark.anyio

_numbers = count()

Connect = Callable[[], Awaitable[NatsTransport]]


UVLOOP: tuple[str, dict[str, Any]] = ("asyncio", {"use_uvloop": True})

on_both_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", UVLOOP], ids=["asyncio", "uvloop"])


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop of workers and gateways, whose sockets behave a little differently when they break."""
    return UVLOOP


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour as in the product, sooner."""
    monkeypatch.setattr("fabric_sdk.transports.nats._CONNECT_SECONDS", 0.5)
    monkeypatch.setattr("fabric_sdk.transports.nats._PROBE_SECONDS", 0.5)
    monkeypatch.setattr("fabric_sdk.transports.nats._FLUSH_SECONDS", 0.5)
    monkeypatch.setattr("fabric_sdk.transports.nats._CLOSE_SECONDS", 0.5)


@pytest.fixture
def server() -> Generator[PrivateNats]:
    with private_nats() as server:
        yield server


@pytest.fixture
async def exit_stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as exit_stack:
        yield exit_stack


@pytest.fixture
def connect(server: PrivateNats, exit_stack: AsyncExitStack) -> Connect:
    async def connect() -> NatsTransport:
        transport = await NatsTransport.connect(server.url)
        exit_stack.push_async_callback(transport.close)
        return transport

    return connect


class Events:
    """What a connection told its listeners."""

    def __init__(self, transport: NatsTransport) -> None:
        self.seen: list[str] = []
        self.stop = transport.listen(self.seen.append)


async def works(publisher: NatsTransport, ear: Ear, subject: str) -> None:
    """Return when a message on `subject` is heard, which may get lost while a connection comes back."""
    nonce = next(_numbers)

    async def try_it() -> None:
        while nonce not in ear.values:
            try:
                await publisher.publish(Message(subject, Body(nonce)))
                await publisher.flush()
            except TransportUnavailable:
                pass
            await asyncio.sleep(0.02)

    async with asyncio.timeout(10):
        await try_it()


# The server goes and comes back


@on_both_loops
async def test_after_the_server_was_killed_everything_works_again_by_itself(
    server: PrivateNats, connect: Connect
) -> None:
    publisher, subscriber = await connect(), await connect()
    plain, shared = Ear(), Ear()
    await subscriber.subscribe("plain", plain)
    await subscriber.subscribe("shared.*", shared, queue="pool")
    events = Events(subscriber)
    for _ in range(2):
        server.kill()
        await eventually(lambda: not (subscriber.connected or publisher.connected), what="the loss of the connection")
        server.start()
        await works(publisher, plain, "plain")
        await works(publisher, shared, "shared.a")
    assert events.seen == ["disconnected", "connected"] * 2


async def test_an_interest_that_was_cancelled_before_it_was_had_is_not_kept_by_the_server(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, subscriber = await connect(), await connect()
    flushing = asyncio.Event()

    async def flush() -> None:
        flushing.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(subscriber, "flush", flush)
        subscribing = asyncio.create_task(subscriber.subscribe("cancelled", Ear()))
        await flushing.wait()
        subscribing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await subscribing
    await subscriber.flush()
    answers = Ear()
    await publisher.subscribe("answers", answers)
    await publisher.publish(Message("cancelled", EMPTY, reply="answers"))
    (answer,) = await answers.wait()
    assert answer.header(Header.STATUS) == "503", "nobody hears it"
    assert "0 interests" in repr(subscriber)


@on_both_loops
async def test_calls_go_on_after_the_server_was_killed(
    server: PrivateNats, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric_sdk.patterns.call.SILENCE", 0.5)
    agent, executed = Agent("adder"), list[int]()

    @agent.tool
    async def add(left: int, right: int) -> int:
        executed.append(left)
        return left + right

    worker_side, client_side = await connect(), await connect()
    worker = Worker(worker_side, agent)
    await worker.start()
    async with Fabric.over(client_side) as fabric:
        adder = fabric.agent("adder")
        assert await adder.call("add", {"left": 1, "right": 2}, timeout=10) == 3
        server.kill()
        await eventually(lambda: not (worker_side.connected or client_side.connected))
        call = asyncio.create_task(adder.call("add", {"left": 2, "right": 3}, timeout=10, key="twice-is-fine"))
        server.start()
        assert await call == 5
        await eventually(lambda: worker_side.connected)
        assert await adder.call("add", {"left": 3, "right": 4}, timeout=10) == 7
    await worker.drain()
    assert executed == [1, 2, 3]


async def test_a_listener_that_raises_does_not_keep_the_connection_from_coming_back(
    server: PrivateNats, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, subscriber = await connect(), await connect()
    ear = Ear()
    await subscriber.subscribe("raises", ear)

    def broken(event: str) -> None:
        raise RuntimeError(f"cannot hear that it is {event}")

    subscriber.listen(broken)
    events = Events(subscriber)
    server.kill()
    await eventually(lambda: events.seen == ["disconnected"])
    server.start()
    await works(publisher, ear, "raises")
    assert events.seen == ["disconnected", "connected"]
    assert "cannot hear that it is connected" in caplog.text


async def test_an_answer_that_is_ready_while_the_server_is_away_arrives_when_it_is_back(
    server: PrivateNats, connect: Connect
) -> None:
    agent, begun, go_on = Agent("slow"), asyncio.Event(), asyncio.Event()

    @agent.tool
    async def work() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    transports = [await connect(), await connect()]
    worker = Worker(transports[0], agent)
    await worker.start()
    async with Fabric.over(transports[1]) as fabric:
        call = asyncio.create_task(fabric.agent("slow").call("work", timeout=20))
        await begun.wait()
        server.kill()
        await eventually(lambda: not any(transport.connected for transport in transports))
        server.start()
        await eventually(lambda: all(transport.connected for transport in transports))
        for transport in transports:
            await transport.flush()
        go_on.set()
        assert await call == "done"
    await worker.drain()


async def test_what_is_subscribed_and_closed_while_the_server_is_away_is_so_when_it_is_back(
    server: PrivateNats, connect: Connect
) -> None:
    publisher, subscriber = await connect(), await connect()
    old, new = Ear(), Ear()
    closed = await subscriber.subscribe("old", old)
    server.kill()
    await eventually(lambda: not (subscriber.connected or publisher.connected))
    await subscriber.subscribe("new", new)
    await closed.close()
    server.start()
    await works(publisher, new, "new")
    await publisher.publish(Message("old"))
    await works(publisher, new, "new")
    assert old.heard == []


async def test_messages_wait_for_the_server_up_to_a_limit_and_are_refused_beyond_it(
    server: PrivateNats, connect: Connect
) -> None:
    publisher, subscriber = await connect(), await connect()
    ear = Ear()
    await subscriber.subscribe("kept", ear)
    server.kill()
    await eventually(lambda: not (subscriber.connected or publisher.connected))
    for _ in range(8):
        await publisher.publish(Message("kept", Body("x" * 1_000_000)))
    with pytest.raises(TransportUnavailable, match="NATS is away"):
        await publisher.publish(Message("kept", Body("x" * 1_000_000)))
    await publisher.publish(Message("other"))  # there is room for something small
    server.start()
    await eventually(lambda: publisher.connected and subscriber.connected)


# The server freezes


async def test_a_server_that_freezes_for_a_moment_costs_nobody_the_connection(
    server: PrivateNats, connect: Connect
) -> None:
    publisher, subscriber = await connect(), await connect()
    ear = Ear()
    await subscriber.subscribe("moment", ear)
    events = Events(subscriber)
    server.freeze()
    for _ in range(2):
        with pytest.raises(TransportUnavailable):
            await subscriber.flush()
    server.thaw()
    await works(publisher, ear, "moment")
    await subscriber.flush()
    await works(publisher, ear, "moment")
    assert events.seen == []


@on_both_loops
async def test_after_a_long_freeze_everything_works_again_by_itself(
    server: PrivateNats, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric_sdk.transports.nats._PING_SECONDS", 0.3)
    publisher, subscriber = await connect(), await connect()
    ear = Ear()
    await subscriber.subscribe("long", ear)
    server.freeze()
    await eventually(lambda: not subscriber.connected, what="the notice that nobody answers")
    server.thaw()
    await works(publisher, ear, "long")


async def test_a_subscription_closed_while_the_server_is_frozen_stays_closed(
    server: PrivateNats, connect: Connect
) -> None:
    publisher, subscriber = await connect(), await connect()
    closed, other = Ear(), Ear()
    subscription = await subscriber.subscribe("closed", closed)
    await subscriber.subscribe("other", other)
    server.freeze()
    async with asyncio.timeout(5):
        await subscription.close()
    server.kill()  # what was written to it is lost with it
    server.start()
    await works(publisher, other, "other")
    await publisher.publish(Message("closed"))
    await works(publisher, other, "other")
    assert closed.heard == []


async def test_a_worker_can_leave_while_the_server_is_frozen(server: PrivateNats, connect: Connect) -> None:
    worker = Worker(await connect(), Agent("leaving"))
    await worker.start()
    server.freeze()
    async with asyncio.timeout(5):  # each of its subscriptions waits for the server, all of them together
        await worker.drain()


async def test_a_full_buffer_does_not_hold_a_publisher_for_ever(
    server: PrivateNats, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric_sdk.transports.nats._BUFFER_BYTES", 1_000_000)
    publisher = await connect()
    server.freeze()
    async with asyncio.timeout(20):
        for _ in range(8):  # more than the sockets hold
            await publisher.publish(Message("flood", Body("x" * 900_000)))
        await publisher.close()


# The server closes the client


def raw(transport: NatsTransport) -> Any:
    """The socket's writer."""
    return cast("Any", transport)._client._transport


@on_both_loops
async def test_a_client_that_the_server_closed_for_a_protocol_error_is_rebuilt(
    server: PrivateNats, connect: Connect
) -> None:
    publisher, subscriber = await connect(), await connect()
    ear = Ear()
    await subscriber.subscribe("error", ear)
    raw(subscriber).write(b"NONSENSE\r\n")
    await raw(subscriber).drain()
    await eventually(lambda: "Unknown Protocol" in server.log or "parse" in server.log.lower())
    await works(publisher, ear, "error")
    await works(subscriber, ear, "error")


async def test_a_subject_that_the_server_will_not_take_costs_a_moment_and_not_the_connection() -> None:
    with private_nats("max_control_line: 1024\n") as stricter:
        transport, ear = await NatsTransport.connect(stricter.url), Ear()
        try:
            await transport.subscribe("here", ear)
            await transport.publish(Message("x" * 2000))
            await works(transport, ear, "here")
        finally:
            await transport.close()


TWO_USERS = 'authorization { users: [ {user: "a", password: "one"}, {user: "b", password: "two"} ] }\n'
ONE_USER = 'authorization { users: [ {user: "b", password: "two"} ] }\n'


@on_both_loops
async def test_a_user_who_is_taken_away_and_given_back_finds_everything_as_it_was() -> None:
    with private_nats(TWO_USERS) as users:
        await take_away_and_give_back(users)


async def take_away_and_give_back(users: PrivateNats) -> None:
    async with logged_in(users, "a:one") as subscriber, logged_in(users, "b:two") as publisher:
        ear, events = Ear(), Events(subscriber)
        await subscriber.subscribe("user", ear)
        users.configure(ONE_USER)
        await eventually(lambda: events.seen == ["disconnected"])
        with pytest.raises(TransportUnavailable):
            await subscriber.flush()
        users.configure(TWO_USERS)
        await works(publisher, ear, "user")
        assert subscriber.connected


async def test_a_client_is_replaced_once_however_often_that_failed_before(
    server: PrivateNats, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, subscriber = await connect(), await connect()
    ear, events = Ear(), Events(subscriber)
    await subscriber.subscribe("once", ear)
    await close_by_server_and_freeze(subscriber, server)
    await eventually(lambda: caplog.text.count("no NATS server answers") >= 2)
    server.thaw()
    await works(publisher, ear, "once")
    for _ in range(10):
        await subscriber.flush()
    assert events.seen == ["disconnected", "connected"]


async def close_by_server_and_freeze(transport: NatsTransport, server: PrivateNats) -> None:
    """Have the server close the client for an error, and freeze before another can connect."""

    def freeze(event: str) -> None:
        if event == "disconnected":
            server.freeze()
            stop()

    stop = transport.listen(freeze)
    raw(transport).write(b"NONSENSE\r\n")
    await raw(transport).drain()


@asynccontextmanager
async def logged_in(server: PrivateNats, login: str) -> AsyncGenerator[NatsTransport]:
    transport = await NatsTransport.connect(f"nats://{login}@{HOST}:{server.port}")
    try:
        yield transport
    finally:
        await transport.close()


@pytest.mark.parametrize("greeting", [b"x" * 1_000_000, b"INFORMATION\r\n"], ids=["endless-line", "nonsense"])
async def test_whatever_stands_in_for_the_server_for_a_while_it_is_found_again(
    server: PrivateNats, connect: Connect, greeting: bytes
) -> None:
    publisher, subscriber = await connect(), await connect()
    ear = Ear()
    await subscriber.subscribe("again", ear)
    server.kill()
    async with listener(greeting, port=server.port) as stand_in:
        await eventually(lambda: stand_in.greeted >= 4, what="some attempts of both")
        assert not subscriber.connected
        assert not publisher.connected
    server.start()
    await works(publisher, ear, "again")


# The end


@on_both_loops
async def test_closing_while_the_server_is_away_leaves_nothing_behind(server: PrivateNats) -> None:
    before = asyncio.all_tasks()
    for break_it in (server.kill, server.freeze):
        if break_it == server.freeze:
            server.start()
        transport = await NatsTransport.connect(server.url)
        await transport.subscribe("end", Ear())
        break_it()
        async with asyncio.timeout(10):
            await transport.close()
        await eventually(lambda: asyncio.all_tasks() <= before, what="the end of every task of it")


@on_both_loops
async def test_closing_while_the_client_is_being_replaced_leaves_nothing_behind(
    server: PrivateNats, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    transport = await NatsTransport.connect(server.url)
    await close_by_server_and_freeze(transport, server)
    await eventually(lambda: "no NATS server answers" in caplog.text)
    async with asyncio.timeout(10):
        await transport.close()
    await eventually(lambda: asyncio.all_tasks() <= before, what="the end of every task of it")
    assert repr(transport) == "<NatsTransport closed, 0 interests>"


@on_both_loops
async def test_closing_at_the_moment_of_a_loss_ends_all_the_same(server: PrivateNats) -> None:
    before = asyncio.all_tasks()
    for turns in range(25):
        transport, lost = await NatsTransport.connect(server.url), asyncio.Event()
        transport.listen(partial(_set, lost))
        raw(transport).write(b"NONSENSE\r\n")
        async with asyncio.timeout(5):
            await lost.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            await transport.close()
        assert not transport.connected
    await eventually(lambda: asyncio.all_tasks() <= before, what="the end of every task of them")


def _set(lost: asyncio.Event, _: str) -> None:
    lost.set()


async def test_who_stops_listening_is_told_nothing_more(server: PrivateNats, connect: Connect) -> None:
    transport = await connect()
    staying, leaving = Events(transport), Events(transport)
    leaving.stop()
    leaving.stop()
    server.kill()
    await eventually(lambda: staying.seen == ["disconnected"])
    assert leaving.seen == []
    server.start()
    await eventually(lambda: staying.seen == ["disconnected", "connected"])
    assert leaving.seen == []


@pytest.mark.parametrize("bad", ["", "a b", "a\tb", "a\r\nPING", "a\nb", " a", "a\x0bb", "a\u00a0b", "a" * 5000])
async def test_what_is_no_subject_is_refused_and_costs_no_connection(bad: str) -> None:
    with private_nats() as server:
        transport = await NatsTransport.connect(server.url)
        try:
            told: list[str] = []
            transport.listen(told.append)
            ear = Ear()
            await transport.subscribe("good", ear)
            plain, headed = Message(bad, Body(1)), Message(bad, Body(1), headers={"a": "b"})
            for message in (plain, headed, Message("x", reply=f"r {bad}r")):
                with pytest.raises(InvalidParams, match="is no subject"):
                    await transport.publish(message)
            for queue in ("", "group"):
                with pytest.raises(InvalidParams, match="is no subject"):
                    await transport.subscribe(bad, ear, queue=queue)
            await transport.publish(Message("good", Body(1), reply="answers", headers={"a": "b"}))
            assert [message.reply for message in await ear.wait()] == ["answers"]
            assert told == []
        finally:
            await transport.close()
