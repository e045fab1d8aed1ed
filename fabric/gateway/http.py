"""The few things the gateway does with ASGI itself: read a body, answer once, stream events, see the client leave.

Above: `modern`, `rest`, `app`. Below: any ASGI server. It knows no JSON-RPC.
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

WATCH_AFTER: Final = 0.05
"""Seconds after which, or within as many more, a request that is still being worked on is watched."""
PING_SECONDS: Final = 15.0
"""Between two signs of life on a silent stream, for the proxies on the way …"""
PING: Final = b": still working\r\n\r\n"
"""… and what they are."""

MOST_WAITING: Final = 1024 * 1024
"""Bytes of events that wait for a client that reads slowly; beyond it, the oldest are dropped."""

LEAST_RATE: Final = 16 * 1024
"""Bytes of a request, or of a message, that give its client one more second: what is large arrives on a thin line, and
a trickle does not."""
MOST_COMING: Final = 64
"""So many of the largest bodies, or messages, may be on their way at once; of small ones, any number."""
SMALL: Final = 64 * 1024
"""Bytes of a body that are not counted: uvicorn keeps as many for any connection, so those are what bounds them."""

WHOLE: Final = "fabric.response.whole"
"""The type of an event that is a whole response, for servers whose `send` has the attribute …"""
TAKES_WHOLE: Final = "takes_whole"
"""… of this name: one step instead of two, and nothing to check that this file has not written itself."""

JSON: Final = b"application/json"
SSE: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class BodyTooLarge(Exception):
    """The body is larger than the gateway takes."""


class NoRoom(Exception):
    """The bodies that are still coming take all the memory there is for them."""


class ClientLeft(Exception):
    """The client closed the connection before its request was whole, or was told that it took too long."""


class Bodies:
    """Reads the bodies of requests: each is bounded, and so are all together that are not whole yet.

    How long one may take is the connection's to say, see `listen`.
    """

    def __init__(self, limit: int) -> None:
        """No body may have more than `limit` bytes."""
        self._limit = limit
        self._room = MOST_COMING * limit

    async def read(self, receive: Receive, stated: bytes | None) -> bytes:
        """The whole body; `stated` is the Content-Length header, if there was one.

        Raises:
            BodyTooLarge: it has, or says it has, more bytes than it may.
            NoRoom: other bodies leave it none.
            ClientLeft: it never ended.
        """
        if stated is not None and stated.isdigit() and int(stated) > self._limit:
            raise BodyTooLarge
        event = await receive()
        body: bytes = event.get("body", b"")
        if event.get("more_body"):
            body = await self._rest(body, receive)
        elif event["type"] == "http.disconnect":
            raise ClientLeft
        if len(body) > self._limit:
            raise BodyTooLarge
        return body

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        """The whole of a body that does not come at once."""
        body, held = bytearray(first), 0
        try:
            while True:
                if len(body) > self._limit:
                    raise BodyTooLarge
                more = max(0, len(body) - SMALL) - held
                if more > self._room:
                    raise NoRoom
                self._room -= more
                held += more
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientLeft
                body += event.get("body", b"")
                if not event.get("more_body"):
                    return bytes(body)
        finally:
            self._room += held


async def respond(
    send: Send, status: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = (), kind: bytes = JSON
) -> None:
    """A whole response, whose body, if there is one, is of this media type."""
    if kind is JSON and getattr(send, TAKES_WHOLE, False):
        await send({"type": WHOLE, "status": status, "headers": headers, "body": body})
        return
    lines = [(b"content-length", b"%d" % len(body)), *headers]
    if body:
        lines.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


class Patrol:
    """Has exchanges watched that take long: one look at all now and then, as a timer for each would be dear."""

    def __init__(self) -> None:
        self._new: set[Exchange] = set()
        self._known: set[Exchange] = set()
        """Those that were there at the last look."""
        self._walking = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The running one, once it was asked for: in Python 3.11 that is a system call."""

    def add(self, exchange: Exchange) -> None:
        """Have `exchange` watched, unless it is removed before."""
        self._new.add(exchange)
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        if not self._walking:
            self._walking = True
            self._walk_later()

    def remove(self, exchange: Exchange) -> None:
        """Leave `exchange` alone."""
        self._new.discard(exchange)
        self._known.discard(exchange)

    def _walk_later(self) -> None:
        asyncio.get_running_loop().call_later(WATCH_AFTER, self._walk)

    def _walk(self) -> None:
        late, self._known, self._new = self._known, self._new, set()
        for exchange in late:
            exchange.watch()
        self._walking = bool(self._known)
        if self._walking:
            self._walk_later()


class Exchange:
    """One request being worked on: becomes a stream when there is something to say ahead of the answer.

    The work runs in the request's own task. A second task exists only for a request that takes long: it notices
    when the client leaves, and then cancels the work; it sends events and signs of life.
    """

    # Most requests change nothing of this.
    _streaming = False
    _finishing = False
    _waiting = 0
    """Bytes of the events that are not sent yet."""
    _stir: asyncio.Event | None = None
    _leaving: asyncio.Task[None] | None = None
    _pumping: asyncio.Task[None] | None = None
    left = False
    """Whether the client is gone."""

    def __init__(self, receive: Receive, send: Send, patrol: Patrol, *, may_stream: bool) -> None:
        self._receive = receive
        self._send = send
        self._may_stream = may_stream
        self._events: deque[bytes] = deque()
        self._work = asyncio.current_task(patrol.loop)
        self._patrol = patrol
        patrol.add(self)

    def push(self, event: bytes) -> None:
        """Send an event ahead of the answer, in order; nothing to a client that takes no streams."""
        if self._may_stream and not self._finishing:
            self._events.append(event)
            self._waiting += len(event)
            while self._waiting > MOST_WAITING and len(self._events) > 1:
                self._waiting -= len(self._events.popleft())
            self.watch()
            if self._stir is not None:
                self._stir.set()

    async def finish(
        self,
        status: int,
        body: bytes,
        as_event: Callable[[bytes], bytes],
        headers: tuple[tuple[bytes, bytes], ...] = (),
        kind: bytes = JSON,
    ) -> None:
        """Send the answer: as a response of its own, or as the last event of the stream."""
        await self.close()
        if self._streaming:
            await self._send({"type": "http.response.body", "body": as_event(body)})
        else:
            await respond(self._send, status, body, headers, kind)

    async def close(self) -> None:
        """Stop watching, once all events are sent."""
        self._patrol.remove(self)
        self._finishing = True
        if self._leaving is not None:
            self._leaving.cancel()
        if self._pumping is not None and self._stir is not None:
            self._stir.set()
            await self._pumping

    def watch(self) -> None:
        """Notice from now on that the client leaves, and send signs of life."""
        if self._leaving is None:
            self._patrol.remove(self)
            self._stir = asyncio.Event()
            self._leaving = asyncio.create_task(self._await_leaving())
            if self._may_stream:
                self._pumping = asyncio.create_task(self._pump(self._stir))

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
                self._events.append(PING)
            stir.clear()
            if not self._events:
                continue
            if not self._streaming:
                self._streaming = True
                await self._send({"type": "http.response.start", "status": 200, "headers": SSE})
            waiting = b"".join(self._events)
            self._events.clear()
            self._waiting = 0
            await self._send({"type": "http.response.body", "body": waiting, "more_body": True})
