"""A WebSocket on the network, by a real server: what is not whole is bounded, and so is what nobody reads.

Proves: TR-3, SE-6
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from socket import create_connection
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from gateway.client import UPGRADE
from support.waiting import eventually

from fabric.gateway import upgraded
from fabric.gateway.http import respond
from fabric.gateway.upgraded import Upgraded
from fabric.gateway.websocket import before_it_opens

MAX = 200_000
SMALL = 64 * 1024
TEXT, CONTINUED, PING = 1, 0, 9

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def frame(opcode: int, data: bytes = b"", *, last: bool = False) -> bytes:
    """As a client masks one: with nothing."""
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack(">Q", size)
    return bytes([(0x80 if last else 0) | opcode]) + length + bytes(4) + data


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says how long each message is."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(len(event["text"]))})


@asynccontextmanager
async def serving(app: Any = echo, ws: Any = Upgraded, **more: Any) -> AsyncGenerator[int]:
    """A port at which `app` is reached over WebSocket."""
    config = uvicorn.Config(app, ws=ws, lifespan="off", log_config=None, port=0, ws_max_size=MAX, **more)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, what="the server")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await running


@asynccontextmanager
async def opened(port: int) -> AsyncGenerator[Pipe]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def socket(pipe: Pipe) -> None:
    assert b" 101 " in await pipe[0].readuntil(b"\r\n\r\n")


async def closed(reader: asyncio.StreamReader) -> int:
    """The code that the connection is closed with."""
    async with asyncio.timeout(5):
        while (await reader.readexactly(1))[0] != 0x88:
            await reader.readexactly((await reader.readexactly(1))[0])
        await reader.readexactly(1)
        return int.from_bytes(await reader.readexactly(2))


async def test_a_message_in_endless_pieces_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgraded, "_MOST_PIECES", 100)
    async with serving() as port, opened(port) as pipe:
        await socket(pipe)
        pipe[1].write(frame(TEXT, b"a") + frame(CONTINUED) * 98 + frame(CONTINUED, b"b", last=True))
        assert await pipe[0].readexactly(3) == b"\x81\x012"
        pipe[1].write(frame(TEXT) + frame(CONTINUED) * 100)
        assert await closed(pipe[0]) == 1008


async def test_what_is_not_whole_is_bounded_for_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgraded, "MOST_COMING", 2)
    most = b"x" * (MAX - 1)
    async with serving() as port, opened(port) as one, opened(port) as two, opened(port) as three, opened(port) as four:
        for pipe in (one, two, three, four):
            await socket(pipe)
        one[1].write(frame(TEXT, most))  # a piece
        two[1].write(frame(TEXT, most, last=True)[:-1])  # a part of one
        three[1].write(frame(TEXT, most)[: MAX // 2])
        held = 2 * (MAX - SMALL) + MAX // 2 - SMALL
        await eventually(lambda: abs(Upgraded._coming - held) < 20, what="what is held")  # pyright: ignore[reportPrivateUsage]
        four[1].write(frame(TEXT, most)[: MAX - 10])
        assert await closed(four[0]) == 1013
        two[1].write(b"x")
        assert await two[0].readexactly(8) == b"\x81\x06199999"
        one[1].transport.abort()
        await eventually(lambda: Upgraded._coming < MAX, what="room")  # pyright: ignore[reportPrivateUsage]
        async with opened(port) as five:
            await socket(five)
            five[1].write(frame(TEXT, most))
            five[1].write(frame(CONTINUED, b"x", last=True))
            assert await five[0].readexactly(8) == b"\x81\x06200000"


async def test_a_message_has_to_arrive_in_time() -> None:
    async with serving(ws_ping_interval=0.05, ws_ping_timeout=0.05) as port, opened(port) as (reader, writer):
        await socket((reader, writer))
        writer.write(frame(TEXT, b"never"))

        async def ponging() -> None:
            while True:
                writer.write(b"\x8a\x84" + bytes(4) + (await asked.get()))

        asked: asyncio.Queue[bytes] = asyncio.Queue()
        answering = asyncio.create_task(ponging())
        async with asyncio.timeout(5):
            while (first := (await reader.readexactly(2)))[0] == 0x89:
                asked.put_nowait(await reader.readexactly(first[1]))
            assert int.from_bytes(await reader.readexactly(2)) == 1008
        answering.cancel()


async def test_pings_of_who_does_not_read_are_not_answered_without_end() -> None:
    waiting: list[int] = []

    class Watched(Upgraded):
        def handle_ping(self) -> None:
            super().handle_ping()
            waiting.append(self.transport.get_write_buffer_size())

    pings = frame(PING, b"x" * 125, last=True) * 500
    async with serving(ws=Watched) as port, opened(port) as (reader, writer):
        await socket((reader, writer))
        cast("asyncio.Transport", writer.transport).pause_reading()
        for _ in range(200):
            writer.write(pings)
            await writer.drain()
        assert len(waiting) > 10_000
        assert max(waiting) < 1024 * 1024


@pytest.mark.parametrize("last", [frame(TEXT) + frame(CONTINUED) * 10_001, frame(8, b"\x03\xe8", last=True)])
async def test_who_does_not_read_loses_a_connection_that_is_closing_too(last: bytes) -> None:
    lost = asyncio.Event()

    class Watched(Upgraded):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()
            super().connection_lost(exc)

    async def pour(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * 16_000_000})
        while (await receive())["type"] == "websocket.receive":
            pass

    async with serving(pour, Watched, ws_ping_interval=0.3, ws_ping_timeout=0.3) as port, opened(port) as pipe:
        await socket(pipe)
        cast("asyncio.Transport", pipe[1].transport).pause_reading()
        pipe[1].write(last)
        await asyncio.wait_for(lost.wait(), 10)


def test_who_sends_much_is_read_in_turn_with_all_others() -> None:
    """By uvloop, which would read 32 times from one connection before it looks at another."""
    rounds: list[int] = []

    class Watched(Upgraded):
        reads = 0

        def data_received(self, data: bytes) -> None:
            if not self.reads:
                self.loop.call_soon(self.next_round)
            self.reads += 1
            super().data_received(data)

        def next_round(self) -> None:
            rounds.append(self.reads)
            self.reads = 0

    def flood(port: int) -> None:
        with create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(UPGRADE)
            connection.recv(1)
            for _ in range(100):
                connection.sendall(frame(PING, b"x" * 125, last=True) * 1000)

    async def main() -> None:
        async with serving(ws=Watched) as port:
            await asyncio.to_thread(flood, port)

    uvloop.run(main())
    assert len(rounds) > 10
    assert max(rounds) == 1


async def test_who_is_refused_is_no_mistake_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await respond(before_it_opens(send), 403, b"{}")

    async with serving(refuse) as port, opened(port) as (reader, _):
        assert b" 403 " in await reader.read()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
