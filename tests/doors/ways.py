"""The doors of a gateway, each as a client that asks the same and is told the same in its own words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from gateway.client import headers, request
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

Json = dict[str, Any]
NAMES = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass
class Said:
    """What became of a request."""

    verdict: str
    """`done`, `reported` by the tool, or why there is no result."""
    result: Json = field(default_factory=dict[str, Any])


class Way(Protocol):
    """One door."""

    async def list(self, kind: str, token: str | None) -> Said:
        """`tools`, `prompts`, `resources`."""
        ...

    async def ask(self, method: str, named: str, arguments: Json, token: str | None) -> Said:
        """`tools/call`, `prompts/get`, `resources/read`."""
        ...


_BY_STATUS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "unknown",
    409: "a task alone",
    422: "reported",
    429: "limited",
    504: "late",
}
_BY_CODE = {4030: "forbidden", -32021: "a task alone", -32602: "unknown", 4290: "limited", 5040: "late"}


class RestWay:
    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url, self._http = url, http

    async def list(self, kind: str, token: str | None) -> Said:
        return self._said(await self._http.get(f"{self._url}/api/{kind}", headers=_bearer(token)))

    async def ask(self, method: str, named: str, arguments: Json, token: str | None) -> Said:
        if method == "resources/read":
            asked = self._http.get(f"{self._url}/api/resources/read", params={"uri": named}, headers=_bearer(token))
        else:
            path = f"{self._url}/api/{method.partition('/')[0]}/{named}"
            asked = self._http.post(path, json=arguments, headers=_bearer(token))
        return self._said(await asked)

    def _said(self, response: httpx.Response) -> Said:
        if response.status_code == 200:
            return Said("done", response.json())
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code
        return Said(_BY_STATUS[response.status_code], response.json())


class McpWay:
    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url, self._http = f"{url}/mcp", http

    async def list(self, kind: str, token: str | None) -> Said:
        return await self._post(f"{kind}/list", None, {}, token)

    async def ask(self, method: str, named: str, arguments: Json, token: str | None) -> Said:
        return await self._post(method, named, _params(method, named, arguments), token)

    async def _post(self, method: str, named: str | None, params: Json, token: str | None) -> Said:
        content, lines = json.dumps(request(method, params)), headers(method, named, token=token)
        response = await self._http.post(self._url, content=content, headers=lines)
        return Said("unauthenticated") if response.status_code == 401 else _said(response.json())


class SocketWay:
    def __init__(self, url: str) -> None:
        self._url = url

    async def list(self, kind: str, token: str | None) -> Said:
        return await self._send(f"{kind}/list", {}, token)

    async def ask(self, method: str, named: str, arguments: Json, token: str | None) -> Said:
        return await self._send(method, _params(method, named, arguments), token)

    async def _send(self, method: str, params: Json, token: str | None) -> Said:
        try:
            async with socket_to(self._url, token) as socket:
                return _said(await ask(socket, method, params))
        except InvalidStatus as refused:
            return Said(_BY_STATUS[refused.response.status_code])


def socket_to(url: str, token: str | None, *offers: str, **more: Any) -> connect:
    """A WebSocket, by a client without the settings that the environment has for proxies."""
    lines = {**_bearer(token), **more}
    return connect(
        url.replace("http", "ws", 1) + "/ws",
        subprotocols=["mcp", *offers],  # type: ignore[list-item]
        additional_headers=lines,
        proxy=None,
    )


async def ask(socket: ClientConnection, method: str, params: Json | None = None, *, number: Any = 1) -> Json:
    """The answer to a request of the current revision, when nothing else is said meanwhile."""
    await socket.send(json.dumps(request(method, params, number=number)))
    return await said(socket)


async def said(socket: ClientConnection) -> Json:
    """The next message."""
    async with asyncio.timeout(10):
        return json.loads(await socket.recv())


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def _params(method: str, named: str, arguments: Json) -> Json:
    return {NAMES[method]: named, **({} if method == "resources/read" else {"arguments": arguments})}


def _said(message: Json) -> Said:
    if "error" in message:
        return Said(_BY_CODE[message["error"]["code"]], message["error"])
    return Said("reported" if message["result"].get("isError") else "done", message["result"])


@asynccontextmanager
async def _rest(url: str) -> AsyncGenerator[Way]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        yield RestWay(url, http)


@asynccontextmanager
async def _mcp(url: str) -> AsyncGenerator[Way]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        yield McpWay(url, http)


@asynccontextmanager
async def _socket(url: str) -> AsyncGenerator[Way]:
    yield SocketWay(url)


DOORS: dict[str, Callable[[str], AbstractAsyncContextManager[Way]]] = {"mcp": _mcp, "rest": _rest, "socket": _socket}
