"""Who may enter, and how much of anything the gateway takes: each refusal is clear, and hurts nobody else.

Proves: TR-1, SE-6, OP-1
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.running import FABRIC, Running

from fabric.gateway.admission import Admission, Denied, read_headers
from fabric.settings import load_settings
from gateway.client import Client, Wire, headers, request, written
from gateway.conftest import MAX_BODY, MAX_CONCURRENT, MAX_HEADER

LIST = json.dumps(request("tools/list")).encode()


@pytest.fixture(scope="module")
async def strict(strict_fabric: Running) -> AsyncGenerator[Client]:
    """A client of the fabric with small limits."""
    async with Client.to(strict_fabric.mcp_url, strict_fabric.token) as client:
        yield client


async def status_of(client: Client, *, change: dict[str, str | None]) -> tuple[int, dict[str, Any]]:
    """What a list of the tools is answered with when these headers are changed, added or left out."""
    lines: dict[str, str | None] = {**client.headers("tools/list"), **change}
    response = await client.post(LIST, {name: value for name, value in lines.items() if value is not None})
    return response.status_code, response.json()


async def until_answered(client: Client, status: int) -> None:
    """Wait until a list of the tools is answered with this status."""
    async with asyncio.timeout(10):
        while (await status_of(client, change={}))[0] != status:  # noqa: ASYNC110 - another client's leaving sets no event
            await asyncio.sleep(0.02)


# tokens


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(None, "Bearer", id="missing"),
        pytest.param("", "Bearer", id="empty"),
        pytest.param("Bearer", "Bearer", id="scheme-alone"),
        pytest.param("{token}", "Bearer", id="no-scheme"),
        pytest.param("Basic {token}", "Bearer", id="other-scheme"),
        pytest.param("Bearer wrong", 'Bearer error="invalid_token"', id="wrong"),
        pytest.param("Bearer {other_case}", 'Bearer error="invalid_token"', id="other-case"),
        pytest.param("Bearer {token}x", 'Bearer error="invalid_token"', id="longer"),
        pytest.param("Bearer {shorter}", 'Bearer error="invalid_token"', id="shorter"),
        pytest.param("Bearer {token} {token}", 'Bearer error="invalid_token"', id="twice"),
    ],
)
async def test_who_has_no_valid_token_is_told_what_is_needed(strict: Client, given: str | None, reason: str) -> None:
    token = str(strict.token)
    lines = strict.headers("tools/list")
    del lines["authorization"]
    if given is not None:
        lines["authorization"] = given.format(token=token, other_case=token.swapcase(), shorter=token[:-1])
    response = await strict.post(LIST, lines)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith(reason)
    assert ("error=" in response.headers["www-authenticate"]) == ("error=" in reason)
    assert token not in response.text


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
async def test_the_scheme_is_read_as_http_wants_it(strict: Client, scheme: str) -> None:
    assert (await status_of(strict, change={"authorization": f"{scheme}{strict.token}"}))[0] == 200


async def test_a_token_in_the_query_is_none(strict: Client) -> None:
    lines = strict.headers("tools/list")
    del lines["authorization"]
    response = await strict.http.post(f"{strict.url}?token={strict.token}", content=LIST, headers=lines)
    assert response.status_code == 401


# Host and Origin


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:1", 200),
        ("LOCALHOST:65535", 200),
        ("127.0.0.1:8420", 200),
        ("[::1]", 200),
        ("[::1]:8420", 200),
        ("gateway.example", 200),
        ("Gateway.Example:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.2", 421),
        ("localhost:evil", 421),
        ("localhost:1:2", 421),
        ("user@localhost", 421),
        ("gateway.example.", 421),
        ("[::1", 421),
        ("::1", 421),
        ("", 421),
    ],
)
async def test_the_gateway_answers_for_its_own_names_only(strict: Client, host: str, status: int) -> None:
    found, body = await status_of(strict, change={"host": host})
    assert found == status
    assert status == 200 or "does not answer for host" in body["error"]["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost", 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8420", 200),
        ("https://[::1]:1", 200),
        ("https://gateway.example:444", 200),
        ("https://app.example", 200),
        ("http://app.example", 403),
        ("https://app.example:444", 403),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("http://evil.example/://localhost", 403),
        ("localhost", 403),
        ("null", 403),
        ("file://", 403),
        ("", 403),
    ],
)
async def test_web_pages_of_other_origins_may_not_use_it(strict: Client, origin: str, status: int) -> None:
    assert (await status_of(strict, change={"origin": origin}))[0] == status


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization"])
@pytest.mark.parametrize("place", [0, 3], ids=["wrong-first", "right-first"])
async def test_what_decides_who_enters_comes_once(strict: Client, name: str, place: int) -> None:
    token = f"Authorization: Bearer {strict.token}"
    deciding = ["Host: localhost", "Origin: http://localhost", token]
    others = [f"{key}: {value}" for key, value in headers("tools/list").items()]
    for more, status in (([], 200), ([f"{name.lower()}: evil.example"], 400)):
        lines = [*deciding[:place], *more, *deciding[place:], *others, f"Content-Length: {len(LIST)}"]
        async with Wire.to(strict.url) as wire:
            await wire.send("\r\n".join(["POST /mcp HTTP/1.1", *lines, "", ""]).encode(), LIST)
            assert await wire.status() == status
            said = await wire.read_until(b"}}")
        assert (f"the {name} header came more than once".encode() in said) == (status == 400)


async def test_a_request_without_a_host_is_refused(strict: Client) -> None:
    async with Wire.to(strict.url) as wire:
        await wire.send(b"POST /mcp HTTP/1.0\r\ncontent-length: 0\r\n\r\n")
        assert await wire.status() == 421


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("2001:db8::5", "[2001:DB8::5]:8420"),
        ("2001:db8::5", "[2001:db8::5]"),
        ("Example.COM", "example.com"),
        ("10.0.0.5", "10.0.0.5:8420"),
    ],
)
def test_the_address_that_is_listened_on_is_a_name_of_the_gateway(host: str, named: str) -> None:
    for settings in (load_settings(host=host, token="t"), load_settings(allowed_hosts=host, token="t")):
        headers = read_headers([(b"host", named.encode()), (b"authorization", b"Bearer t")])
        assert Admission(settings).decide(headers) == b"t"


def test_who_enters_without_a_token_is_nobody() -> None:
    admission = Admission(load_settings(anonymous=True))
    assert admission.decide(read_headers([(b"host", b"localhost")])) == b""
    assert isinstance(admission.decide(read_headers([(b"host", b"localhost"), (b"authorization", b"x")])), Denied)
    assert isinstance(admission.decide(read_headers([(b"host", b"evil.example")])), Denied)


# methods, paths, kinds of content


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_only_posts_are_taken(strict: Client, method: str) -> None:
    response = await strict.http.request(method, strict.url, headers=strict.headers("tools/list"))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/mcp/", "/MCP", "/mcp/x", "//mcp", "/healthz/", "/%6dcp%00", "/../mcp", "/é"])
async def test_a_path_where_nothing_is_says_where_something_is(strict: Client, path: str) -> None:
    response = await strict.http.get(strict.url.removesuffix("/mcp") + path.replace("/..", "/%2e%2e"))
    assert response.status_code == 404
    assert "/mcp" in response.json()["error"]


async def test_health_and_readiness_need_no_token(strict: Client) -> None:
    base = strict.url.removesuffix("/mcp")
    response = await strict.http.get(f"{base}/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    response = await strict.http.get(f"{base}/readyz")
    assert response.status_code == 200
    ready = response.json()
    assert (ready["status"], ready["nats"], ready["catalogue"], ready["stale"]) == ("ok", True, True, False)
    assert ready["agents"] == 2


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/json ;x=y", 200),
        ("application/jsonp", 415),
        ("application/json-patch+json", 415),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        (None, 415),
    ],
)
async def test_only_json_is_taken(strict: Client, kind: str | None, status: int) -> None:
    assert (await status_of(strict, change={"content-type": kind}))[0] == status


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("Application/*", 200),
        ("*/*", 200),
        ("text/html, application/json;q=0.1", 200),
        ("", 200),
        ("text/event-stream", 406),
        ("text/html", 406),
        ("image/png, text/plain", 406),
    ],
)
async def test_who_takes_no_json_is_refused(strict: Client, accept: str, status: int) -> None:
    assert (await status_of(strict, change={"accept": accept}))[0] == status


# how much


def padded(size: int) -> bytes:
    """A list of the tools in a body of this size."""
    return LIST[:-1] + b" " * (size - len(LIST)) + b"}"


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


@pytest.mark.parametrize("chunked", [False, True], ids=["stated", "chunked"])
async def test_a_body_of_up_to_the_limit_is_taken(strict: Client, chunked: bool) -> None:
    lines = strict.headers("tools/list")
    for size, status in ((MAX_BODY - 1, 200), (MAX_BODY, 200), (MAX_BODY + 1, 413), (MAX_BODY * 200, 413)):
        content: Any = in_parts(padded(size)) if chunked else padded(size)
        response = await strict.http.post(strict.url, content=content, headers=lines)
        assert response.status_code == status, size
        assert status == 200 or str(MAX_BODY) in response.json()["error"]["message"]
    assert (await status_of(strict, change={}))[0] == 200


async def test_a_body_that_is_refused_at_the_door_takes_nothing_from_the_refusal(strict: Client) -> None:
    lines = {**strict.headers("tools/list"), "authorization": "Bearer wrong"}
    for _ in range(5):
        response = await strict.post(bytes(4 * 1024 * 1024), lines)
        assert response.status_code == 401


async def test_a_length_that_is_stated_is_enough_to_be_refused(strict: Client) -> None:
    head = written(strict.url, strict.headers("tools/list"), b"").replace(b"length: 0", b"length: 99999999")
    async with Wire.to(strict.url) as wire:
        await wire.send(head)
        assert await wire.status() == 413


async def test_a_body_without_end_is_cut_off(strict: Client) -> None:
    head = written(strict.url, strict.headers("tools/list"), b"")
    head = head.replace(b"content-length: 0", b"transfer-encoding: chunked")
    part = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    async with Wire.to(strict.url) as wire:
        sending = asyncio.create_task(wire.send(head, *[part] * 200))
        assert await wire.status() == 413
        await wire.read_to_end()
        await sending


HEAD = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([HEAD, b"x: ", b"a" * MAX_HEADER, b"\r\n\r\n"], id="one-value"),
        pytest.param([HEAD, b"a" * MAX_HEADER, b": x\r\n\r\n"], id="one-name"),
        pytest.param([HEAD, *[b"x: y\r\n"] * (MAX_HEADER // 5), b"\r\n"], id="many"),
        pytest.param([b"GET /" + b"a" * MAX_HEADER + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"], id="path"),
        pytest.param([HEAD, b"x: ", *[b"a" * 1000] * 5000], id="value-without-end"),
        pytest.param([HEAD, *[b"a" * 1000] * 5000], id="name-without-end"),
        pytest.param([HEAD, *[b"x: " + b"a" * 996 + b"\r\n"] * 5000], id="headers-without-end"),
        pytest.param([b"GET /", *[b"a" * 1000] * 5000], id="path-without-end"),
        pytest.param([b"\r\n" * 500] * 5000, id="nothing-without-end"),
        pytest.param(
            [HEAD.replace(b"GET /healthz", b"POST /mcp"), b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"]
            + [b"x: " + b"a" * 996 + b"\r\n"] * 5000,
            id="trailers-without-end",
        ),
        pytest.param(
            [HEAD.replace(b"GET /healthz", b"POST /mcp"), b"transfer-encoding: chunked\r\n\r\n1;"]
            + [b"a" * 1000] * 5000,
            id="chunk-extension-without-end",
        ),
    ],
)
async def test_headers_beyond_the_limit_are_refused(strict: Client, parts: list[bytes]) -> None:
    async with Wire.to(strict.url) as wire:
        sending = asyncio.create_task(wire.send(*parts))
        said = await wire.read_to_end()
        await sending
    assert b"HTTP/1.1 431 " in said
    assert str(MAX_HEADER).encode() in said
    assert (await status_of(strict, change={}))[0] == 200


async def test_headers_of_up_to_the_limit_are_taken_on_every_request_of_a_connection(strict: Client) -> None:
    for size in (MAX_HEADER // 2, 0, MAX_HEADER - 1000):
        assert (await status_of(strict, change={"x-padding": "x" * size}))[0] == 200
    assert (await strict.http.get(strict.url, headers={"x-padding": "x" * MAX_HEADER})).status_code == 431
    assert (await status_of(strict, change={}))[0] == 200


async def test_beyond_the_limit_of_concurrent_requests_a_client_is_told_when_to_come_again(strict: Client) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    greeting = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    handshake = strict.headers("initialize")
    del handshake["mcp-protocol-version"]
    session = (await strict.post(greeting, handshake)).headers["mcp-session-id"]
    call = json.dumps(request("tools/call", {"name": "hello_hang", "arguments": {}})).encode()
    async with AsyncExitStack() as stack:
        for _ in range(MAX_CONCURRENT):
            wire = await stack.enter_async_context(Wire.to(strict.url))
            await wire.send(written(strict.url, strict.headers("tools/call", "hello_hang"), call))
        await until_answered(strict, 503)
        response = await strict.post(LIST, strict.headers("tools/list"))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert str(MAX_CONCURRENT) in response.json()["error"]["message"]
        assert (await strict.http.get(strict.url.replace("/mcp", "/healthz"))).status_code == 200
        # a session's own stream waits for hours, so it takes nobody's place
        stream = {**strict.headers("x", accept="text/event-stream"), "mcp-session-id": session}
        stream["mcp-protocol-version"] = "2025-11-25"
        async with strict.http.stream("GET", strict.url, headers=stream) as opened:
            assert opened.status_code == 200
    await until_answered(strict, 200)


# what is no HTTP


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), id="tls"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="ssh"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2"),
        pytest.param(b"POST /mcp HTTP/1.1\r\nhost localhost\r\n\r\n", id="header-without-colon"),
        pytest.param(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", id="length-negative"),
        pytest.param(b"POST /mcp HTTP/1.1\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n", id="length-overflow"),
        pytest.param(b"POST /mcp HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", id="two-lengths"),
        pytest.param(
            b"POST /mcp HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", id="length-and-chunks"
        ),
        pytest.param(b"POST /mcp HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="chunk-size"),
        pytest.param(b"GET /\xff HTTP/1.1\r\n\r\n", id="path"),
    ],
)
async def test_what_is_no_http_is_refused_and_the_connection_closed(strict: Client, garbage: bytes) -> None:
    async with Wire.to(strict.url) as wire:
        await wire.send(garbage)
        said = await wire.read_to_end()
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 421 "))
    assert (await status_of(strict, change={}))[0] == 200


@pytest.mark.parametrize("offer", ["Upgrade: h2c", "upgrade:h2c", "UPGRADE: \th2c "])
async def test_a_client_that_offers_http_2_is_served_by_http_1(strict: Client, offer: str) -> None:
    more = f"Connection: Upgrade, HTTP2-Settings\r\n{offer}\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAN_____\r\n"
    async with Wire.to(strict.url) as wire:
        for _ in range(2):
            await wire.send(written(strict.url, strict.headers("tools/list"), LIST, more=more.encode()))
            assert await wire.status() == 200
            await wire.read_until(b'"}}}}')


async def test_an_offer_of_another_protocol_is_ignored(strict: Client) -> None:
    more = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n"
    async with Wire.to(strict.url) as wire:
        await wire.send(written(strict.url, strict.headers("x"), b"", more=more).replace(b"POST", b"GET", 1))
        assert await wire.status() == 405


async def test_what_follows_an_offer_of_another_protocol_is_no_request(strict: Client) -> None:
    inner = written(strict.url, strict.headers("tools/list"), LIST)
    more = b"connection: Upgrade\r\nupgrade: TLS/1.0\r\n"
    head, _, body = written(strict.url, strict.headers("tools/list"), inner, more=more).partition(b"\r\n\r\n")
    async with Wire.to(strict.url) as wire:
        await wire.send(head + b"\r\n\r\n")
        await wire.send(body)
        said = await wire.read_to_end()
    assert said.count(b"HTTP/1.1 ") == 1


# starting


def up(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`fabric up` that must not start."""
    command = [str(FABRIC), "up", "--ephemeral", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, **env}, check=False)


def test_a_port_that_is_taken_is_a_clear_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = up("--port", str(port))
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in " ".join(done.stderr.split())
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_tokens_the_gateway_stays_on_this_machine(host: str) -> None:
    done = up("--anonymous", "--host", host)
    assert done.returncode == 2
    assert "without tokens" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
