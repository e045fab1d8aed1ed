"""The answer to one request of a handshake session, as its client hears it: perhaps over several connections.

Above: `legacy`, `errands`, `following`, `listening`. Below: ASGI. What must not get lost, questions to the client
and the answer itself, has a place in the session's log (`ledger`), and is told again to whoever names the
last one it saw; progress and log entries have none.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

import orjson

from fabric.gateway import rpc
from fabric.gateway.http import MOST_WAITING, PING, PING_SECONDS, SSE, Receive, Send
from fabric.gateway.rpc import event
from fabric_sdk.cancelling import end

_LONGEST_ID: Final = 200
_NAME: Final = re.compile(r"([0-9a-f]{12})-((?:[0-9a-f]{2})+)-\d{1,15}")
_RETRY_MS: Final = 500
"""When a client whose stream ended comes back: other gateways are there already."""
OWN: Final = "session"
"""The name of a session's own stream; the others are named by `stream_id`."""


class Outbox:
    """What waits for a client's connection."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.complete = False
        """Whether nothing more will come."""
        self.pushed = 0
        """Messages that were added."""
        self.stir = asyncio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        """What is to be let go when nobody reads any more."""
        self.on_end: Callable[[], None] = self.finish
        """Ends it in good order, from this side."""
        self._events: deque[tuple[bytes, bool]] = deque()
        self._size = 0
        self._places: set[int] = set()

    @property
    def empty(self) -> bool:
        return not self._events

    def push(self, message: bytes, place: int | None = None) -> None:
        """Add a message; one with a place in the log comes once, however often it is added."""
        if place is not None:
            if place in self._places:
                return
            self._places.add(place)
        encoded = (
            event(message) if place is None else b"id: %b.%d\r\n%b" % (self.stream.encode(), place, event(message))
        )
        self.pushed += 1
        self._events.append((encoded, place is not None))
        self._size += len(encoded)
        while self._size > MOST_WAITING and (droppable := self._oldest_without_place()) is not None:
            self._size -= len(droppable[0])
            self._events.remove(droppable)
        self.stir.set()

    def _oldest_without_place(self) -> tuple[bytes, bool] | None:
        # But for the last one: an answer that could not be kept has no place, and may be larger than all that may wait.
        return next((each for each in islice(self._events, len(self._events) - 1) if not each[1]), None)

    def finish(self) -> None:
        """Add nothing more."""
        self.complete = True
        self.stir.set()

    def take(self) -> bytes:
        """All that waits."""
        taken = b"".join(encoded for encoded, _ in self._events)
        self._events.clear()
        self._size = 0
        return taken


async def stream(outbox: Outbox, receive: Receive, send: Send, *, first: bytes = b"") -> None:
    """Send what is in `outbox` as server-sent events, until it is complete or the client leaves."""
    leaving = asyncio.create_task(_left(receive, outbox))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        if first:
            await send({"type": "http.response.body", "body": first, "more_body": True})
        while not leaving.done():
            outbox.stir.clear()
            if not outbox.empty:
                await send({"type": "http.response.body", "body": outbox.take(), "more_body": True})
                continue
            if outbox.complete:
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await outbox.stir.wait()
            except TimeoutError:
                await send({"type": "http.response.body", "body": PING, "more_body": True})
    finally:
        await end([leaving])
        if outbox.on_close is not None:
            await outbox.on_close()


async def _left(receive: Receive, outbox: Outbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    outbox.stir.set()


def primer(stream_id: str) -> bytes:
    """The first event of a stream, by which a client can come back before anything else was said."""
    return b"id: %b.0\r\nretry: %d\r\ndata: \r\n\r\n" % (stream_id.encode(), _RETRY_MS)


def stream_id(replica: str, request: bytes, number: int) -> str:
    """The name of the answer to `request` (its JSON-RPC id) that `replica` began."""
    said = (request if len(request) <= _LONGEST_ID else rpc.NULL).hex()
    return f"{replica}-{said}-{number}"


def parts_of(name: str) -> tuple[str, bytes]:
    """The replica that began an answer, and its request's JSON-RPC id.

    Raises:
        ValueError: it is no such name.
    """
    if (parts := _NAME.fullmatch(name)) is None:
        raise ValueError(name)
    request = bytes.fromhex(parts[2])
    orjson.loads(request)  # it will stand in an answer
    return parts[1], request


def place_in(last_event: str) -> tuple[str, int]:
    """The stream and the place in what a client sends as `Last-Event-ID`.

    Raises:
        ValueError: no gateway gave it that.
    """
    name, _, place = last_event.rpartition(".")
    if name != OWN:
        parts_of(name)
    if not place.isdecimal():
        raise ValueError(last_event)
    return name, int(place)
