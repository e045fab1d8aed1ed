"""Clients that are slow, silent or deaf lose their own connection, and take the gateway from nobody else.

Proves: TR-1, SE-6
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import uvicorn
from support.running import Running, running_fabric
from support.waiting import eventually

from fabric.gateway import listen, replies
from fabric.gateway.http import respond
from fabric.gateway.listen import limited
from fabric.gateway.sockets import bind, room_for
from fabric.gateway.upgraded import Upgraded
from fabric_sdk import Agent, Context
from gateway.client import UPGRADE, Client, Wire, headers, meta, request, tools, written
from gateway.probe import Waits, serving

MAX_CONCURRENT = 4
MAX_BODY = 256 * 1024
MAX_CONNECTIONS = 256
OTHER_FILES = 40
ENDLESS = resource.RLIM_INFINITY
TIMEOUT = 0.6
"""Seconds a client may take."""
SIZE = 3_500_000
"""Bytes of a result that, being sent twice, is more than the system keeps for a client that does not read."""
STEP = 256 * 1024
LIST = json.dumps(request("tools/list")).encode()
LARGE = LIST[:-1] + b" " * (100_000 - len(LIST)) + b"}"


@pytest.fixture(scope="module")
def brisk_fabric() -> Generator[Running]:
    """A fabric whose gateway waits for nobody for long, and has few places and connections."""
    env = {
        "FABRIC_MAX_CONCURRENT": str(MAX_CONCURRENT),
        "FABRIC_MAX_BODY": str(MAX_BODY),
        "FABRIC_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "FABRIC_CLIENT_TIMEOUT": str(TIMEOUT),
    }
    hello = Path(__file__).parents[1] / "agents" / "hello.py"
    with running_fabric(str(hello), env=env) as running:
        yield running


@pytest.fixture(scope="module")
async def good(brisk_fabric: Running) -> AsyncGenerator[Client]:
    """A client that does nobody any harm."""
    async with Client.to(brisk_fabric.mcp_url, brisk_fabric.token) as client:
        yield client


@pytest.fixture
async def wires(good: Client) -> AsyncGenerator[AsyncExitStack]:
    """Holds the connections of a test."""
    async with AsyncExitStack() as stack:
        yield stack


@asynccontextmanager
async def listened_on(
    app: Any, *, client_timeout: float = 30.0, most_unread: int = listen.MOST_UNREAD, ws: Any = "none", **more: Any
) -> AsyncGenerator[str]:
    """Where `app` is served as a gateway is."""
    listener = bind("127.0.0.1", 0)
    listener.listen()
    protocol = limited(16_384, client_timeout, 100, most_unread=most_unread)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws=ws, lifespan="off", log_config=None, **more))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield "http://{}:{}/".format(*listener.getsockname())
    finally:
        server.should_exit = True
        await serving


async def connect(wires: AsyncExitStack, url: str, count: int) -> list[Wire]:
    return [await wires.enter_async_context(Wire.to(url)) for _ in range(count)]


async def is_refused_as_late(wire: Wire) -> None:
    """Hold the gateway to say so, and to hang up."""
    said = await wire.read_to_end()
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said
    assert b"did not arrive within 0.6 s" in said


# requests that do not arrive


async def test_slow_bodies_take_no_places_and_are_refused(good: Client, wires: AsyncExitStack) -> None:
    head, body = written(good.url, good.headers("tools/list"), LIST).split(b"\r\n\r\n")
    slow = await connect(wires, good.url, 200)
    for wire in slow:
        await wire.send(head, b"\r\n\r\n", body[:10])

    async def trickle() -> None:
        for byte in body[10:]:
            await asyncio.sleep(TIMEOUT / 5)
            for wire in slow:
                await wire.send(bytes((byte,)))

    trickling = asyncio.create_task(trickle())
    refused = asyncio.gather(*map(is_refused_as_late, slow))
    while not refused.done():
        await good.still_serves()
    await refused
    trickling.cancel()


async def test_an_upload_over_a_slow_line_is_taken(good: Client, wires: AsyncExitStack) -> None:
    (wire,) = await connect(wires, good.url, 1)
    post = written(good.url, good.headers("tools/list"), LARGE)
    began = asyncio.get_running_loop().time()
    for start in range(0, len(post), 5_000):
        await wire.send(post[start : start + 5_000])
        await asyncio.sleep(0.1)
    assert asyncio.get_running_loop().time() - began > 3 * TIMEOUT
    assert await wire.status() == 200


@pytest.mark.parametrize("place", [1, 30, -1], ids=["request-line", "header", "last-byte"])
async def test_a_head_without_end_is_refused(good: Client, wires: AsyncExitStack, place: int) -> None:
    whole = written(good.url, good.headers("tools/list"), LIST)
    head = whole.partition(LIST)[0]
    for earlier in (False, True):  # the first of its connection, or a later one
        (wire,) = await connect(wires, good.url, 1)
        if earlier:
            await wire.send(whole)
            await wire.read_until(b'"id":1')
            await wire.read_until(b"}}}}")
        await wire.send(head[:place])
        await is_refused_as_late(wire)


async def test_a_header_byte_now_and_then_does_not_help(good: Client, wires: AsyncExitStack) -> None:
    (wire,) = await connect(wires, good.url, 1)
    await wire.send(b"GET /healthz HTTP/1.1\r\nx: ")
    refused = asyncio.create_task(is_refused_as_late(wire))
    while not refused.done():
        await wire.send(b"x")
        await asyncio.sleep(TIMEOUT / 5)
    await refused


async def test_who_asks_nothing_is_hung_up_on_without_a_word(good: Client, wires: AsyncExitStack) -> None:
    silent, blank = await connect(wires, good.url, 2)
    await blank.send(b"\r\n")
    assert await silent.read_to_end(seconds=5 * TIMEOUT) == b""
    assert await blank.read_to_end(seconds=5 * TIMEOUT) == b""


@pytest.mark.parametrize("rest", [1, 0], ids=["goes-on", "is-done"])
async def test_who_sends_what_was_refused_already_is_hung_up_on(good: Client, wires: AsyncExitStack, rest: int) -> None:
    (wire,) = await connect(wires, good.url, 1)
    post = written(good.url, {**good.headers("tools/list"), "authorization": "Bearer wrong"}, LIST)
    await wire.send(post[:-2])
    assert await wire.status() == 401
    await wire.send(post[-2 : len(post) - rest])
    await wire.read_to_end(seconds=5 * TIMEOUT)


async def test_a_request_that_waits_for_the_one_before_it_is_not_late(good: Client, wires: AsyncExitStack) -> None:
    (wire,) = await connect(wires, good.url, 1)
    call = request("tools/call", {"name": "hello_whoami", "arguments": {"wait": 3 * TIMEOUT}})
    first = written(good.url, good.headers("tools/call", "hello_whoami"), json.dumps(call).encode())
    second = written(good.url, good.headers("tools/list"), LIST)
    await wire.send(first + second[:100])
    assert await wire.status() == 200
    await wire.read_until(b'"pid"')
    await wire.send(second[100:])
    await wire.read_until(b"HTTP/1.1 200 ")


# connections


def files(running: Running) -> int:
    """How many files and connections the gateway has open."""
    return psutil.Process(running.pids["gateway"]).num_fds()


async def test_connections_without_a_request_displace_one_another_only(
    brisk_fabric: Running, good: Client, wires: AsyncExitStack
) -> None:
    (known,) = await connect(wires, good.url, 1)
    whole = written(good.url, good.headers("tools/list"), LIST)
    await known.send(whole)
    await known.read_until(b"}}}}")
    for _ in range(3):
        await connect(wires, good.url, MAX_CONNECTIONS)
        await good.still_serves()
        assert files(brisk_fabric) < MAX_CONNECTIONS + OTHER_FILES
    await known.send(whole)
    assert await known.status() == 200


async def test_idle_connections_make_room_for_new_ones(
    brisk_fabric: Running, good: Client, wires: AsyncExitStack
) -> None:
    whole = written(good.url, good.headers("tools/list"), LIST)
    (busy,) = await connect(wires, good.url, 1)
    call = request("tools/call", {"name": "hello_whoami", "arguments": {"wait": 3.0}})
    await busy.send(written(good.url, good.headers("tools/call", "hello_whoami"), json.dumps(call).encode()))
    for _ in range(MAX_CONNECTIONS + 50):
        (wire,) = await connect(wires, good.url, 1)
        await wire.send(whole)
        assert await wire.status() == 200
    assert MAX_CONNECTIONS * 0.9 < files(brisk_fabric) < MAX_CONNECTIONS + OTHER_FILES
    assert await busy.status() == 200


@pytest.mark.parametrize(
    ("soft", "hard", "room", "raised"),
    [
        pytest.param(2000, 4000, 1000, None, id="enough"),
        pytest.param(ENDLESS, ENDLESS, 1000, None, id="endless"),
        pytest.param(500, 4000, 1000, 1128, id="raised"),
        pytest.param(500, ENDLESS, 1000, 1128, id="raised-from-endless"),
        pytest.param(500, 800, 672, 800, id="too-few"),
        pytest.param(20, 20, 1, None, id="far-too-few"),
    ],
)
def test_there_is_room_for_as_many_connections_as_there_are_descriptors(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, room: int, raised: int | None
) -> None:
    given: list[tuple[int, int]] = []

    def limits(_: int) -> tuple[int, int]:
        return soft, hard

    def limit(_: int, limits: tuple[int, int]) -> None:
        given.append(limits)

    monkeypatch.setattr(resource, "getrlimit", limits)
    monkeypatch.setattr(resource, "setrlimit", limit)
    assert room_for(1000) == room
    assert given == ([] if raised is None else [(raised, hard)])


# answers that are not read


class Flood(Agent):
    """Says more than fits between a gateway and a client that reads nothing, and then waits for ever."""

    def __init__(self) -> None:
        super().__init__("flood")
        self.waits = Waits()
        self.tool(self.pour)
        self.tool(self.large)

    async def large(self, size: int) -> str:
        """Return so much."""
        return "x" * size

    async def pour(self, ctx: Context) -> None:
        """Report progress of 16 MB."""
        for number in range(160):
            await ctx.progress(number, 160, "x" * 100_000)
        await self.waits.wait()


async def all_places_are_free(good: Client) -> bool:
    call = {"name": "hello_whoami", "arguments": {"wait": 0.2}}
    answers = await asyncio.gather(*(good.ask("tools/call", call) for _ in range(MAX_CONCURRENT)))
    return all(answer.status_code == 200 for answer in answers)


async def test_who_never_reads_loses_the_call_and_its_place(brisk_fabric: Running, good: Client) -> None:
    flood = Flood()
    params = {"name": "flood_pour", "arguments": {}, "_meta": meta(progressToken=1)}
    call = json.dumps(request("tools/call", params)).encode()
    async with serving(brisk_fabric.nats_url, flood), AsyncExitStack() as wires:
        await eventually(lambda: "flood_pour" in tools(brisk_fabric), what="the flood in the list of tools")
        for wire in await connect(wires, good.url, MAX_CONCURRENT):
            await wire.send(written(good.url, headers("tools/call", "flood_pour", token=good.token), call))
        await asyncio.wait_for(flood.waits.begun.wait(), 20)
        await asyncio.wait_for(flood.waits.cancelled.wait(), 20)
        async with asyncio.timeout(10):
            while not await all_places_are_free(good):
                pass


async def test_who_reads_slowly_gets_all_of_it(brisk_fabric: Running, good: Client) -> None:
    call = json.dumps(request("tools/call", {"name": "flood_large", "arguments": {"size": SIZE}})).encode()
    at, loop, said = urlsplit(good.url), asyncio.get_running_loop(), b""
    async with serving(brisk_fabric.nats_url, Flood()):
        await eventually(lambda: "flood_large" in tools(brisk_fabric), what="the flood in the list of tools")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STEP)  # or the system reads ahead
            slow.setblocking(False)
            await loop.sock_connect(slow, (at.hostname, at.port))
            await loop.sock_sendall(slow, written(good.url, good.headers("tools/call", "flood_large"), call))
            while len(said) < 2 * SIZE:  # it comes as text and as structured content
                more = await loop.sock_recv(slow, STEP)
                assert more, f"it hung up after {len(said)} bytes"
                said += more
                await asyncio.sleep(TIMEOUT / 10)


async def test_answers_that_nobody_reads_take_only_so_much_memory() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, 200, b"x" * SIZE * 8)

    async with listened_on(app, most_unread=20 * SIZE) as url, AsyncExitStack() as stack:
        at = urlsplit(url)
        deaf: list[asyncio.StreamReader] = []
        for _ in range(6):
            client = socket.create_connection((at.hostname, at.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STEP)
            reader, writer = await asyncio.open_connection(sock=client, limit=1024)
            stack.callback(writer.close)
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            deaf.append(reader)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        lost = 0
        for reader in deaf:
            try:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(8 * SIZE)
            except (asyncio.IncompleteReadError, ConnectionError):
                lost += 1
                assert reader in deaf[:-2], "who came last is let go last"
        assert 2 <= lost <= 4, "all six are more than may wait"


async def test_a_connection_on_which_nothing_is_asked_is_closed_and_others_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "_IDLE_SECONDS", 0.05)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(float(scope["path"][1:]))  # work that takes longer than a connection may be idle
        await respond(send, 200, b"{}")

    async with listened_on(app, timeout_keep_alive=1) as url, AsyncExitStack() as stack:
        quiet, busy = [await stack.enter_async_context(Wire.to(url)) for _ in range(2)]
        await quiet.send(b"GET /0 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await quiet.read_until(b"{}")
        began = asyncio.get_running_loop().time()
        await busy.send(b"GET /2 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await quiet.read_to_end() == b""
        assert 0.9 < asyncio.get_running_loop().time() - began < 1.9
        await busy.read_until(b"{}")
        await busy.send(b"GET /0 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await busy.read_until(b"{}")


@pytest.mark.parametrize(("sent", "answered"), [(65, 65), (3000, 65)])
async def test_who_sends_ahead_is_answered_so_far_and_then_has_to_come_again(
    brisk_fabric: Running, sent: int, answered: int
) -> None:
    """Ten connections that sent without waiting took 760 MB in five seconds, and eight seconds of everybody's time."""
    parts = urlsplit(brisk_fabric.mcp_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" * sent)
        async with asyncio.timeout(10):
            answers = [await reader.readuntil(b'{"status":"ok"}') for _ in range(answered)]
            closes = [b"connection: close" in answer for answer in answers]
            assert closes == [False] * 64 + [sent > answered]
            if sent > answered:
                assert await reader.read() == b""
            else:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert b"200" in await reader.readuntil(b'{"status":"ok"}')
    finally:
        writer.close()


@pytest.mark.parametrize("second", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", UPGRADE], ids=["request", "socket"])
async def test_who_sends_ahead_of_a_stream_and_leaves_ends_it(monkeypatch: pytest.MonkeyPatch, second: bytes) -> None:
    """It was told to the request that came last alone: the stream went on for ever, and took one of its client's."""
    monkeypatch.setattr(replies, "PING_SECONDS", 0.05)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/":
            return
        begun.set()
        try:
            await replies.stream(replies.Outbox("endless"), receive, send)
        finally:
            ended.set()

    async with listened_on(app, ws=Upgraded) as url:
        async with Wire.to(url) as wire:
            await wire.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", second)
            await asyncio.wait_for(begun.wait(), 10)
        await asyncio.wait_for(ended.wait(), 10)


async def test_who_is_late_with_what_it_sends_ahead_has_the_answer_before_it() -> None:
    """It got the refusal of the second request for an answer to the first."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await receive()  # the client leaves, or is told that it is late
        if scope["method"] == "GET":
            await respond(send, 200, b"{}")

    begun = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nbegun"
    async with listened_on(app, client_timeout=0.2) as url, Wire.to(url) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" + begun)
        said = await wire.read_to_end()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"{}HTTP/1.1 408 " in said


BAD = {
    "no-http": b"NONSENSE\r\n\r\n",
    "no-url": b"GET http:// HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "large-head": b"GET / HTTP/1.1\r\nlarge: %b\r\n\r\n" % (b"x" * 20_000),
    "large-head-without-end": b"GET / HTTP/1.1\r\nlarge: %b" % (b"x" * 20_000),
    "bad-body": b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n",
    "large-head-and-no-http": b"GET / HTTP/1.1\r\nlarge: %b\r\n\r\nNONSENSE\r\n\r\n" % (b"x" * 20_000),
}


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize(
    ("bad", "at_once"), [*((bad, False) for bad in BAD), ("no-http", True), ("no-url", True), ("bad-body", True)]
)
async def test_what_is_bad_behind_good_requests_is_no_answer_to_them(
    monkeypatch: pytest.MonkeyPatch, bad: str, at_once: bool, ahead: int
) -> None:
    """Its refusal was the answer to the first of them, whoever that came from, and the others had none."""
    begun, noticed, asked = asyncio.Event(), asyncio.Event(), 0
    take_no_more = listen.Connection._take_no_more  # pyright: ignore[reportPrivateUsage]

    def notice(connection: listen.Connection) -> None:
        take_no_more(connection)
        noticed.set()

    monkeypatch.setattr(listen.Connection, "_take_no_more", notice)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == ahead:  # until the one before it is answered, nothing more is read
            begun.set()
            await asyncio.wait_for(noticed.wait(), 10)
        await respond(send, 200, b"{}")

    async with listened_on(app) as url, Wire.to(url) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * ahead + (BAD[bad] if at_once else b""))
        await begun.wait()
        if not at_once:
            await wire.send(BAD[bad])
        said = await wire.read_to_end()
    answers = said.split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * ahead
    assert [b"connection: close" in answer for answer in answers] == [False] * (ahead - 1) + [True]
    assert asked == ahead


@pytest.mark.parametrize(
    ("bad", "status"),
    [("no-http", 400), ("no-url", 400), ("large-head", 431), ("large-head-without-end", 431), ("bad-body", 400)],
)
async def test_what_is_bad_is_refused_where_no_answer_is_due(bad: str, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            await receive()  # until the client leaves, or is refused
        else:
            await respond(send, 200, b"{}")

    async with listened_on(app) as url, Wire.to(url) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await wire.read_until(b"{}")
        await wire.send(BAD[bad])
        said = await wire.read_to_end()
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert said.count(b"HTTP/1.1 ") == 1


async def test_what_is_bad_within_a_body_ends_the_answer_that_has_begun() -> None:
    """It was refused in the middle of the answer."""
    begun = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"early", "more_body": True})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    async with listened_on(app) as url, Wire.to(url) as wire:
        await wire.send(head)
        await begun.wait()
        await wire.read_until(b"early")
        await wire.send(b"none\r\n")
        said = await wire.read_to_end()
    assert b"HTTP/1.1" not in said
