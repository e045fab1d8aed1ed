"""A client of the handshake revisions that writes each message itself, at whichever gateway its test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.client import BOTH, Json, events

NEWEST = "2025-11-25"
ALL: Json = {"elicitation": {}, "sampling": {}, "roots": {}}


def accept(**content: Any) -> Json:
    """The answer of a person who agrees."""
    return {"action": "accept", "content": content}


class Heard:
    """A stream, as its client reads it."""

    def __init__(self, response: httpx.Response, lines: AsyncIterator[str]) -> None:
        self.response = response
        self.last = ""
        """The id of the last event that had one."""
        self._lines = lines

    async def next(self, *, seconds: float = 20.0) -> Json:
        """The next message; empty events only have an id."""
        async with asyncio.timeout(seconds):
            async for line in self._lines:
                if line.startswith("id: "):
                    self.last = line.removeprefix("id: ")
                elif line.startswith("data: {"):
                    return json.loads(line.removeprefix("data: "))
        raise EOFError("the stream has ended")

    async def begun(self) -> str:
        """The id that comes before the first message."""
        async with asyncio.timeout(20):
            async for line in self._lines:
                if line.startswith("id: "):
                    self.last = line.removeprefix("id: ")
                    return self.last
        raise EOFError("the stream has ended")

    async def rest(self) -> list[Json]:
        """All messages until it ends."""
        messages: list[Json] = []
        try:
            while True:
                messages.append(await self.next())
        except EOFError:
            return messages


class Session:
    """A session, and the token it is used with."""

    def __init__(self, http: httpx.AsyncClient, token: str | None, session_id: str, revision: str) -> None:
        self.http = http
        self.id = session_id
        self.lines = {"mcp-session-id": session_id, "mcp-protocol-version": revision, "accept": BOTH}
        self.lines["content-type"] = "application/json"
        if token is not None:
            self.lines["authorization"] = f"Bearer {token}"

    @staticmethod
    async def open(
        http: httpx.AsyncClient,
        url: str,
        token: str | None,
        *,
        revision: str = NEWEST,
        capabilities: Json = ALL,
    ) -> Session:
        """Shake hands at a gateway."""
        session = Session(http, token, "", revision)
        del session.lines["mcp-session-id"]
        hello = {"protocolVersion": revision, "capabilities": capabilities}
        hello["clientInfo"] = {"name": "test", "version": "1"}
        opened = await session.post(url, {"id": 0, "method": "initialize", "params": hello})
        assert opened.status_code == 200, opened.text
        session.id = session.lines["mcp-session-id"] = opened.headers["mcp-session-id"]
        assert (await session.post(url, {"method": "notifications/initialized"})).status_code == 202
        return session

    async def post(self, url: str, message: Json, **change: str) -> httpx.Response:
        """Any message."""
        return await self.http.post(url, json={"jsonrpc": "2.0", **message}, headers={**self.lines, **change})

    async def ask(self, url: str, method: str, params: Json | None = None, *, number: Any = 1) -> Json:
        """The response to a request: the last message that comes."""
        response = await self.post(url, {"id": number, "method": method, "params": params or {}})
        assert response.status_code == 200, response.text
        return events(response.text)[-1]

    async def answer(self, url: str, question: Json, result: Json) -> None:
        """Answer what the client was asked."""
        response = await self.post(url, {"id": question["id"], "result": result})
        assert response.status_code == 202, response.text

    @asynccontextmanager
    async def call(self, url: str, tool: str, *, number: Any = 1, **arguments: Any) -> AsyncGenerator[Heard]:
        """The stream that answers a call."""
        params: Json = {"name": tool, "arguments": arguments}
        content = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        async with self.http.stream("POST", url, content=content, headers=self.lines) as response:
            assert response.headers["content-type"] == "text/event-stream", response.status_code
            yield Heard(response, response.aiter_lines())

    @asynccontextmanager
    async def listen(self, url: str, *, last: str | None = None) -> AsyncGenerator[Heard]:
        """The session's own stream, or that to which the event `last` belongs."""
        lines = {**self.lines, "accept": "text/event-stream"} | ({} if last is None else {"last-event-id": last})
        async with self.http.stream("GET", url, headers=lines) as response:
            yield Heard(response, response.aiter_lines())
