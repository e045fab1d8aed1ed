"""A client of MCP 2026-07-28 that writes each byte as its test wants it, and right where the test says nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
from support.running import Running

VERSION = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
LEVEL_KEY = "io.modelcontextprotocol/logLevel"
BOTH = "application/json, text/event-stream"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

Json = dict[str, Any]


def meta(**more: Any) -> Json:
    """The `_meta` that each request must have, and what a test adds."""
    return {VERSION_KEY: VERSION, CAPABILITIES_KEY: {}, **more}


def request(method: str, params: Json | None = None, *, number: Any = 1) -> Json:
    """A request with the `_meta` it needs, unless `params` has one."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": meta(), **(params or {})}}


def headers(method: str, name: str | None = None, *, token: str | None = None, accept: str = BOTH) -> dict[str, str]:
    """The headers that go with a request."""
    lines = {
        "content-type": "application/json",
        "accept": accept,
        "mcp-protocol-version": VERSION,
        "mcp-method": method,
    }
    if name is not None:
        lines["mcp-name"] = name
    if token is not None:
        lines["authorization"] = f"Bearer {token}"
    return lines


def events(body: str) -> list[Json]:
    """The JSON-RPC messages of an answer: one, or a stream of server-sent events, where empty ones only have an id."""
    if body.startswith("{"):
        return [json.loads(body)]
    lines = body.replace("\r\n", "\n").split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def refusal(response: httpx.Response, status: int, code: int, *, number: Any = None) -> Json:
    """The error of a response that must be this one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: Json = response.json()
    assert body.keys() == {"jsonrpc", "id", "error"}
    assert (body["jsonrpc"], body["id"], body["error"]["code"]) == ("2.0", number, code), body
    assert body["error"]["message"]
    return body["error"]


def tools(running: Running) -> list[str]:
    """The names of all tools that a gateway offers now, in the order of its list."""
    lines, content = headers("tools/list", token=running.token), json.dumps(request("tools/list"))
    response = httpx.post(running.mcp_url, content=content, headers=lines, trust_env=False, verify=False)
    return [tool["name"] for tool in response.json()["result"]["tools"]]


class Client:
    """Asks one gateway."""

    def __init__(self, url: str, token: str | None, http: httpx.AsyncClient) -> None:
        self.url = url
        self.token = token
        self.http = http

    @staticmethod
    @asynccontextmanager
    async def to(url: str, token: str | None) -> AsyncGenerator[Client]:
        """A client without the settings that the environment has for proxies."""
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
            yield Client(url, token, http)

    async def post(self, content: bytes | str, lines: Mapping[str, str] | list[tuple[str, str]]) -> httpx.Response:
        """Any body with any headers."""
        return await self.http.post(self.url, content=content, headers=lines)

    def headers(self, method: str, name: str | None = None, *, accept: str = BOTH) -> dict[str, str]:
        """The headers that go with a request, this client's token among them."""
        return headers(method, name, token=self.token, accept=accept)

    async def ask(
        self,
        method: str,
        params: Json | None = None,
        *,
        number: Any = 1,
        change: Mapping[str, str] | None = None,
        accept: str = BOTH,
    ) -> httpx.Response:
        """A request as it should be; `change` adds or replaces headers."""
        name = (params or {}).get(NAMED.get(method, ""))
        lines = self.headers(method, name if isinstance(name, str) else None, accept=accept)
        content = json.dumps(request(method, params, number=number), ensure_ascii=False)
        return await self.post(content, {**lines, **(change or {})})

    async def result(self, method: str, params: Json | None = None) -> Json:
        """The result of a request that succeeds, answered as one JSON object."""
        response = await self.ask(method, params)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json", response.text
        body: Json = response.json()
        assert body.keys() == {"jsonrpc", "id", "result"}, body
        return body["result"]

    async def call(self, tool: str, **arguments: Any) -> Json:
        """The result of a tool."""
        return await self.result("tools/call", {"name": tool, "arguments": arguments})

    async def still_serves(self) -> None:
        """The gateway answers a plain call."""
        assert (await self.call("hello_echo", text="still here"))["structuredContent"] == {"result": "still here"}


class Wire:
    """A connection on which a test writes HTTP itself."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._read = b""

    @staticmethod
    @asynccontextmanager
    async def to(url: str) -> AsyncGenerator[Wire]:
        """To the host and port of `url`."""
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.setblocking(False)
            yield Wire(connection)

    async def send(self, *parts: bytes) -> None:
        """Send part after part, for as long as the other side takes them."""
        with suppress(ConnectionError):  # what it said before it hung up is there to be read
            for part in parts:
                await asyncio.get_running_loop().sock_sendall(self._socket, part)

    async def read_until(self, mark: bytes, *, seconds: float = 10.0) -> bytes:
        """What comes up to and with `mark`."""
        async with asyncio.timeout(seconds):
            while mark not in self._read:
                assert await self._more(), f"it hung up after {self._read[-200:]!r}"
        found, _, self._read = self._read.partition(mark)
        return found + mark

    async def read_to_end(self, *, seconds: float = 10.0) -> bytes:
        """What comes until the other side closes."""
        async with asyncio.timeout(seconds):
            while await self._more():
                pass
        return self._read

    async def status(self) -> int:
        """The status of the next response."""
        line = await self.read_until(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        return int(line.split()[1])

    async def _more(self) -> bool:
        try:
            part = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
        except ConnectionError:
            part = b""
        self._read += part
        return bool(part)


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)
"""Asks for a WebSocket."""


def written(url: str, lines: Mapping[str, str], content: bytes, *, more: bytes = b"") -> bytes:
    """A whole POST as bytes; `more` are header lines that no client library would write."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {len(content)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode() + more + b"\r\n" + content
