"""The few things the gateway does with ASGI itself: read a body, answer once, stream events, see the client leave.

Above: `modern`, `app`. Below: any ASGI server. It knows no JSON-RPC.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WATCH_AFTER: Final = 0.05
"""Seconds after which a request that is still being worked on is watched; quick ones never pay for it."""
PING_SECONDS: Final = 15.0
"""Between two signs of life on a silent stream, for the proxies on the way."""

MOST_WAITING: Final = 1024 * 1024
"""Bytes of events that wait for a client that reads slowly; beyond it, the oldest are dropped."""

_JSON: Final = (b"content-type", b"application/json")
_SSE: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class BodyTooLarge(Exception):
    """The body is larger than the gateway takes."""


class ClientLeft(Exception):
    """The client closed the connection before its request was whole."""


async def read_body(receive: Receive, *, limit: int, stated: bytes | None) -> bytes:
    """The whole body.

    Args:
        receive: ASGI's.
        limit: bytes.
        stated: the Content-Length header, if there was one.

    Raises:
        BodyTooLarge: it has, or says it has, more than `limit` bytes.
        ClientLeft: it never ended.
    """
    if stated is not None and stated.isdigit() and int(stated) > limit:
        raise BodyTooLarge
    event = await receive()
    body: bytes = event.get("body", b"")
    if event.get("more_body"):
        parts, size = [body], len(body)
        while event.get("more_body"):
            if size > limit:
                raise BodyTooLarge
            event = await receive()
            part: bytes = event.get("body", b"")
            parts.append(part)
            size += len(part)
        body = b"".join(parts)
    if event["type"] == "http.disconnect":
        raise ClientLeft
    if len(body) > limit:
        raise BodyTooLarge
    return body


async def respond(send: Send, status: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """A whole response; a body is JSON."""
    lines = [(b"content-length", b"%d" % len(body)), *headers]
    if body:
        lines.append(_JSON)
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


class Exchange:
    """One request being worked on: becomes a stream when there is something to say ahead of the answer.

    The work runs in the request's own task. A second task exists only for a request that takes long: it notices
    when the client leaves, and then cancels the work; it sends events and signs of life.
    """

    def __init__(self, receive: Receive, send: Send, *, may_stream: bool) -> None:
        self._receive = receive
        self._send = send
        self._may_stream = may_stream
        self._streaming = False
        self._finishing = False
        self._events: deque[bytes] = deque()
        self._waiting = 0
        self._stir: asyncio.Event | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.current_task(self._loop)
        self._later = self._loop.call_later(WATCH_AFTER, self._watch)
        self.left = False
        """Whether the client is gone."""

    def push(self, event: bytes) -> None:
        """Send an event ahead of the answer, in order; nothing to a client that takes no streams."""
        if self._may_stream and not self._finishing:
            self._events.append(event)
            self._waiting += len(event)
            while self._waiting > MOST_WAITING and len(self._events) > 1:
                self._waiting -= len(self._events.popleft())
            self._watch()
            if self._stir is not None:
                self._stir.set()

    async def finish(self, status: int, body: bytes, as_event: Callable[[bytes], bytes]) -> None:
        """Send the answer: as a response of its own, or as the last event of the stream."""
        await self.close()
        if self._streaming:
            await self._send({"type": "http.response.body", "body": as_event(body)})
        else:
            await respond(self._send, status, body)

    async def close(self) -> None:
        """Stop watching, once all events are sent."""
        self._later.cancel()
        self._finishing = True
        if self._leaving is not None:
            self._leaving.cancel()
        if self._pumping is not None and self._stir is not None:
            self._stir.set()
            await self._pumping

    def _watch(self) -> None:
        if self._leaving is None:
            self._later.cancel()
            self._stir = asyncio.Event()
            self._leaving = self._loop.create_task(self._await_leaving())
            if self._may_stream:
                self._pumping = self._loop.create_task(self._pump(self._stir))

    async def _await_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._work is not None:
            self._work.cancel()

    async def _pump(self, stir: asyncio.Event) -> None:
        """Send events as they come, and a comment when none has come for long."""
        while self._events or not self._finishing:
            try:
                await asyncio.wait_for(stir.wait(), PING_SECONDS)
            except TimeoutError:
                self._events.append(b": still working\r\n\r\n")
            stir.clear()
            if not self._events:
                continue
            if not self._streaming:
                self._streaming = True
                await self._send({"type": "http.response.start", "status": 200, "headers": _SSE})
            waiting = b"".join(self._events)
            self._events.clear()
            self._waiting = 0
            await self._send({"type": "http.response.body", "body": waiting, "more_body": True})
