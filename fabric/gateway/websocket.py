"""MCP over WebSocket: one JSON-RPC message each text frame, both ways, of the current revision or a handshake session.

Above: `app`, which has admitted the sender, and answers each message as if it had been POSTed. Below: `legacy`, and
ASGI. A request's answer, and what comes ahead of it, is written for HTTP; here it is taken out of that again. A session
begins and ends with its connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, cast

import msgspec
from msgspec import Raw, Struct

from fabric.gateway import rpc
from fabric.gateway.admission import Headers
from fabric.gateway.http import MOST_WAITING, TAKES_WHOLE, WHOLE, Event, Receive, Send, respond
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.legacy import Legacy
from fabric.gateway.rpc import Message, Refusal
from fabric.identity.identity import Identity
from fabric.identity.oauth import IssuerUnavailable, Unauthenticated
from fabric_sdk import FabricError
from fabric_sdk.cancelling import end, until
from fabric_sdk.contracts.errors import HandlerFailed, Overloaded

log = logging.getLogger(__name__)

SUBPROTOCOL: Final = "mcp"
BEARER: Final = "bearer."
"""What a subprotocol begins with that is a token: a browser can send it in no other header."""
MOST_IN_HAND: Final = 64
"""Requests of one connection that are worked on at once."""
IDLE_SECONDS: Final = 900.0
"""After so long without a message, and without a request in hand, a connection is closed."""

_MODERN_MARK: Final = rpc.VERSION_KEY.encode()
_UNNAMED: Final = b'{"jsonrpc":"2.0","id":null,'
_DROPPABLE: Final = tuple(
    b'{"jsonrpc":"2.0","method":"notifications/%b"' % which for which in (b"progress", b"message")
)
_LONGEST_REASON: Final = 123
"""Bytes, as RFC 6455 has it."""

Close = tuple[int, str]
"""A close code of RFC 6455, and why."""
Answer = Callable[[bytes, Headers | None, Identity, Receive, Send], Awaitable[None]]
"""Answers one message by ASGI; one of a session comes with headers that name it."""


def read_offer(offered: list[str], headers: Headers) -> str | None:
    """Put the token among the subprotocols, if there is one, where `Admission` reads it; returns what is wrong."""
    if SUBPROTOCOL not in offered:
        return f"the client must offer the subprotocol {SUBPROTOCOL!r}"
    for token in (each.removeprefix(BEARER) for each in offered if each.startswith(BEARER)):
        if b"authorization" in headers:
            headers.undecided = b"authorization"
        headers[b"authorization"] = b"Bearer " + token.encode("latin-1", "replace")
    return None


def before_it_opens(send: Send) -> Send:
    """ASGI's `send` for the HTTP response that refuses a WebSocket."""

    async def refuse(event: Event) -> None:
        await send({**event, "type": f"websocket.{event['type']}"})

    return refuse


class _Cancelled(Struct):
    """The params of `notifications/cancelled`."""

    request: Raw = msgspec.field(name="requestId")


_read_cancelled: Final = msgspec.json.Decoder(_Cancelled).decode


class Door:
    """Serves connections."""

    def __init__(self, answer: Answer, legacy: Legacy, kept_open: KeptOpen) -> None:
        self._answer = answer
        self._legacy = legacy
        self._kept_open = kept_open

    async def __call__(
        self, opener: Identity, identify: Callable[[], Awaitable[Identity]], receive: Receive, send: Send
    ) -> None:
        """Serve one until it is closed; `identify` tells for each message who sends it."""
        ended = asyncio.Event()
        try:
            with self._kept_open.one(opener, ended.set):
                await self._serve(ended, identify, receive, send)
        except Refusal as refusal:
            answer = rpc.error(rpc.NULL, refusal.code, refusal.message)
            await respond(before_it_opens(send), refusal.status, answer)

    async def _serve(
        self, ended: asyncio.Event, identify: Callable[[], Awaitable[Identity]], receive: Receive, send: Send
    ) -> None:
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        connection = _Connection(self._answer, self._legacy, identify, receive, send)
        closing = await until(ended, connection.serve(), (1008, "the token was revoked, or has expired"))
        if closing is not None:
            code, reason = closing
            reason = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
            await send({"type": "websocket.close", "code": code, "reason": reason})


class _Connection:
    def __init__(
        self,
        answer: Answer,
        legacy: Legacy,
        identify: Callable[[], Awaitable[Identity]],
        receive: Receive,
        send: Send,
    ) -> None:
        self._answer = answer
        self._legacy = legacy
        self._identify = identify
        self._receive = receive
        self._outlet = Outlet(send)
        self._in_hand: dict[bytes, asyncio.Task[None]] = {}
        """By the ids of requests, as they were written."""
        self._session: tuple[Headers, Identity] | None = None
        """Of a handshake revision, once there is one."""
        self._own_stream: asyncio.Task[None] | None = None

    async def serve(self) -> Close | None:
        """Take messages until the client leaves, or has to: then returns why."""
        try:
            return await self._take_all()
        finally:
            own = () if self._own_stream is None else (self._own_stream,)
            await end([*self._in_hand.values(), *own])
            if self._session is not None:
                with suppress(FabricError):  # without the broker it is forgotten after a day
                    await self._legacy.delete(*self._session, _unheard)

    async def _take_all(self) -> Close | None:
        while (event := await self._next()) is not None:
            if event["type"] == "websocket.disconnect":
                return None
            if (text := event.get("text")) is None:
                return 1003, "a message is one text frame"
            try:
                identity = await self._identify()
            except Unauthenticated as refused:  # it has expired, or was revoked
                return 1008, str(refused)
            except IssuerUnavailable as away:
                return 1013, str(away)
            await self._take(text.encode(), identity)
        return 1000, f"nothing was asked for {IDLE_SECONDS:g} s"

    async def _next(self) -> Event | None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await self._receive()
            except TimeoutError:
                if not self._in_hand:
                    return None

    async def _take(self, text: bytes, identity: Identity) -> None:
        try:
            message = rpc.read_message(text)
            if message.method is rpc.UNSET or message.id is rpc.UNSET:
                await self._take_notice(text, message, identity)
                return
            request = rpc.identifier(message.id)
        except Refusal as refusal:
            await self._outlet.say(rpc.error(rpc.NULL, refusal.code, refusal.message))
            return
        # Who refuses here waits until that is read: a client that asks and does not read is not read either.
        if request in self._in_hand:
            await self._refuse(request, rpc.INVALID_REQUEST, "a request of this id is on its way already")
        elif message.method == "initialize":
            await self._open_session(request, text, identity)
        elif len(self._in_hand) >= MOST_IN_HAND:
            words = f"one connection has {MOST_IN_HAND} requests in hand at most"
            await self._refuse(request, Overloaded.code, words)
        else:
            modern = self._session is None or _MODERN_MARK in text
            headers = None if modern else cast("tuple[Headers, Identity]", self._session)[0]
            self._in_hand[request] = asyncio.create_task(self._serve(request, text, headers, identity))

    async def _take_notice(self, text: bytes, message: Message, identity: Identity) -> None:
        """A notification, or the answer to what a session was asked."""
        if message.method == "notifications/cancelled":
            with suppress(msgspec.DecodeError):
                if (task := self._in_hand.get(bytes(_read_cancelled(message.params or b"").request))) is not None:
                    task.cancel()
        if self._session is not None:
            await self._work(rpc.NULL, text, self._session[0], identity, _unheard)

    async def _open_session(self, request: bytes, text: bytes, identity: Identity) -> None:
        """Begin a session; no message is read before it is there."""
        if self._session is not None:
            await self._refuse(request, rpc.INVALID_REQUEST, "this connection has a session already")
            return
        reply = Reply(self._outlet, request)
        await self._work(request, text, Headers(), identity, reply)
        if (session := dict(reply.headers).get(b"mcp-session-id")) is not None:
            headers = Headers({b"mcp-session-id": session, b"accept": b"application/json, text/event-stream"})
            self._session = headers, identity
            own = self._legacy.get(headers, identity, _never, Reply(self._outlet, rpc.NULL))
            self._own_stream = asyncio.create_task(own)

    async def _serve(self, request: bytes, text: bytes, headers: Headers | None, identity: Identity) -> None:
        try:
            await self._work(request, text, headers, identity, Reply(self._outlet, request))
        finally:
            del self._in_hand[request]

    async def _work(self, request: bytes, text: bytes, headers: Headers | None, identity: Identity, send: Send) -> None:
        try:
            await self._answer(text, headers, identity, _never, send)
        except Exception as failure:  # as a web server does, so that other requests go on
            log.exception("a message over WebSocket failed")
            await self._refuse(request, HandlerFailed.code, f"the gateway failed: {type(failure).__name__}")

    async def _refuse(self, request: bytes, code: int, words: str) -> None:
        await self._outlet.say(rpc.error(request, code, words))


class Outlet:
    """What goes to one client, in turn.

    Of a client that reads slowly, answers wait with those who give them, of whom there are few; what may be missed
    waits here, and of more than `MOST_WAITING` bytes the oldest is dropped.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._notes: deque[bytes] = deque()
        self._size = 0

    async def say(self, message: bytes) -> None:
        """Send what must not be missed, after all that waits; returns when it is sent, or the client is gone."""
        async with self._turn:
            await self._flush()
            await self._write(message)
            await self._flush()  # who came meanwhile did not wait

    async def note(self, message: bytes) -> None:
        """Send what may be missed: now, or after what is being sent."""
        self._notes.append(message)
        self._size += len(message)
        while self._size > MOST_WAITING and len(self._notes) > 1:
            self._size -= len(self._notes.popleft())
        if not self._turn.locked():
            async with self._turn:
                await self._flush()

    async def _flush(self) -> None:
        while self._notes:
            note = self._notes.popleft()
            self._size -= len(note)
            await self._write(note)

    async def _write(self, message: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "text": message.decode()})
        except OSError:
            return  # it is gone, which whoever reads from it is told


class Reply:
    """ASGI's `send` for the answer to one request: each JSON-RPC message in it becomes a frame."""

    def __init__(self, outlet: Outlet, request: bytes) -> None:
        self._outlet = outlet
        self._request = request
        self.headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, event: Event) -> None:
        if event["type"] == WHOLE:
            self.headers = event["headers"]
            if body := event["body"]:
                await self._frame(body)
        elif event["type"] == "http.response.body":
            for line in event["body"].split(b"\r\n"):
                if line.startswith(b"data: {"):  # not a comment, nor the empty event that only has an id
                    await self._frame(line.removeprefix(b"data: "))

    async def _frame(self, message: bytes) -> None:
        if message.startswith(_DROPPABLE):
            await self._outlet.note(message)
            return
        if message.startswith(_UNNAMED):  # with HTTP, a refusal needs no id to be known by
            message = message.replace(rpc.NULL, self._request, 1)
        await self._outlet.say(message)


setattr(Reply, TAKES_WHOLE, True)


async def _never() -> Event:
    """ASGI's `receive` of a request whose client leaves with the whole connection."""
    return await asyncio.get_running_loop().create_future()


async def _unheard(event: Event) -> None:
    """ASGI's `send` for what has no answer."""
