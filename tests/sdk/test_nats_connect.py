"""Connecting to NATS where there is none, or not for us: the right error, soon, with what to do. Proves: PT-1."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.listener import HOST, listener
from support.nats_server import PrivateNats, private_nats

from fabric_sdk.contracts.errors import ConfigurationError, TransportUnavailable
from fabric_sdk.transports.nats import NatsTransport

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour as in the product, sooner."""
    monkeypatch.setattr("fabric_sdk.transports.nats._CONNECT_SECONDS", 0.5)


@pytest.fixture(scope="module")
def server() -> Generator[PrivateNats]:
    with private_nats('authorization { users: [ {user: "a", password: "one"} ] }\n') as server:
        yield server


INFO = b'INFO {"server_id":"x","version":"2.0.0","max_payload":1048576,"headers":true}\r\n'


@pytest.mark.parametrize(
    ("greeting", "answer", "stay"),
    [
        pytest.param(b"", b"", True, id="waits-like-http"),
        pytest.param(b"", b"-ERR unknown command\r\n", True, id="redis"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", False, id="http-error"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", b"", True, id="ssh"),
        pytest.param(b"", b"", False, id="hangs-up"),
        pytest.param(b"INFO what?\r\n", b"", True, id="no-json"),
        pytest.param(b"INFORMATION\r\n", b"", True, id="no-info"),
        pytest.param(b"x" * 1_000_000, b"", True, id="endless-line"),
        pytest.param(INFO, b"", True, id="silent-after-greeting"),
        pytest.param(INFO, b"-ERR 'go away'\r\n", True, id="refuses"),
        pytest.param(INFO, b"HTTP/1.1 400 Bad Request\r\n", True, id="answers-nonsense"),
    ],
)
async def test_what_is_no_nats_server_is_called_so(greeting: bytes, answer: bytes, stay: bool) -> None:
    async with asyncio.timeout(10), listener(greeting, answer=answer, stay=stay) as it:
        with pytest.raises(TransportUnavailable, match=f"no NATS server answers at nats://{HOST}:{it.port}") as refused:
            await NatsTransport.connect(f"nats://{HOST}:{it.port}")
    assert refused.value.fix
    assert "fabric up" in refused.value.fix


async def test_a_server_that_falls_silent_after_the_handshake_is_not_taken_for_a_connection() -> None:
    async with asyncio.timeout(10), silent_after_pong() as port:
        with pytest.raises(TransportUnavailable, match="no NATS server answers"):
            await NatsTransport.connect(f"nats://{HOST}:{port}")


@asynccontextmanager
async def silent_after_pong() -> AsyncGenerator[int]:
    """Shakes hands as nats-server does, then says nothing more."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_where_nobody_listens_the_error_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        async with asyncio.timeout(5):
            with pytest.raises(TransportUnavailable, match="fabric up"):
                await NatsTransport.connect(f"nats://user:secret@{HOST}:{port}")


@pytest.mark.parametrize("login", ["", "a:wrong@", "nobody:one@", "token@"])
async def test_wrong_credentials_are_called_so_and_never_shown(server: PrivateNats, login: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(ConfigurationError, match="refuses these credentials") as refused:
            await NatsTransport.connect(f"nats://{login}{HOST}:{server.port}")
    assert refused.value.fix
    assert str(server.port) in str(refused.value)
    for secret in ("wrong", "one@", "token"):
        assert secret not in str(refused.value)


async def test_one_user_holds_for_all_servers_and_may_be_written_as_urls_are(server: PrivateNats) -> None:
    transport = await NatsTransport.connect(f"nats://{HOST}:{server.port},nats://%61:one@{HOST}:{server.port}")
    await transport.close()
    with pytest.raises(ConfigurationError, match="more than one user") as refused:
        await NatsTransport.connect(f"nats://a:one@{HOST}:{server.port},nats://b:two@{HOST}:{server.port}")
    assert refused.value.fix


@pytest.mark.parametrize(
    "url",
    [
        *("", " , ", "http://localhost:4222", "localhost:4222", "redis://localhost", "user:secret@localhost"),
        *(
            "nats://",
            "nats://:4222",
            "nats://localhost:port",
            "nats://localhost:99999",
            "nats://[::1",
            "nats:/localhost",
        ),
        *(
            "nats://user:secret@",
            "nats://user:secret,with,commas@localhost",
            "nats://localhost:4222,ws://localhost:8080",
            "nats://local host:4222",
        ),
    ],
)
async def test_a_url_that_is_none_is_refused_before_anything_is_tried(url: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(ConfigurationError) as refused:
            await NatsTransport.connect(url)
    assert refused.value.fix
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("", "holds no NATS credentials"),
        ("-----BEGIN USER NKEY SEED-----\nSU\n", "holds no NATS credentials"),
    ],
)
async def test_a_credentials_file_that_is_none_is_a_mistake_in_the_configuration(
    server: PrivateNats, tmp_path: Path, content: str | None, complaint: str
) -> None:
    path = tmp_path / "agent.creds"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"agent.creds {complaint}") as refused:
        await NatsTransport.connect(server.url, credentials=str(path))
    assert refused.value.fix


async def test_credentials_are_read_from_no_pipe(server: PrivateNats, tmp_path: Path) -> None:
    """Whoever opened it waited for somebody to write, and the loop with it."""
    path = tmp_path / "agent.creds"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)  # so that opening it waits for nobody: then reading it does
    os.write(writer, b"-----BEGIN NATS USER JWT-----\n-----BEGIN USER NKEY SEED-----\n")
    try:
        with pytest.raises(ConfigurationError, match=r"agent\.creds is no file") as refused:
            await NatsTransport.connect(server.url, credentials=str(path))
    finally:
        os.close(writer)
    assert refused.value.fix


async def test_one_server_of_several_is_enough(server: PrivateNats) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        dead = f"nats://{HOST}:{taken.getsockname()[1]}"
        alive = f"nats://a:one@{HOST}:{server.port}"
        for url in (f"{dead},{alive}", f"{alive}, {dead},"):
            transport = await NatsTransport.connect(url)
            await transport.flush()
            await transport.close()
