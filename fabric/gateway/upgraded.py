"""Where a WebSocket meets the network: uvicorn's protocol, which here waits for nobody for ever.

Above: `process`; `listen` and `app`, for the path. Below: uvicorn and websockets. A message is bounded by uvicorn's
settings; here is bounded in how many pieces it may come, in how long, and what all connections together may have sent
of messages that are not whole. `listen` hands a connection over once its client asks for it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from fabric.gateway.http import LEAST_RATE, MOST_COMING, SMALL

PATH: Final = "/ws"
"""The one path at which a WebSocket is opened; elsewhere, who offers one is served by HTTP."""

_REFUSED: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_MOST_PIECES: Final = 10_000
"""Frames of one message: each costs memory, also an empty one."""


class Upgraded(WebSocketsSansIOProtocol):
    """A connection whose client answers pings, reads, and ends its messages, or loses it."""

    _coming: ClassVar[int] = 0
    """Bytes of messages that are not whole, of all connections of this process, but for `SMALL` of each."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._pieces = 0
        """Bytes of the frames that are here of a message that is not whole."""
        self._held = 0
        """What of `_coming` is this connection's."""
        self._begun: float | None = None
        """Since when a message is on its way, if one is."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated:  # the request, which is whole, has a body or is otherwise none of RFC 6455
            self.transport.write(b"".join(self.conn.data_to_send()) or _REFUSED)
            self.transport.close()
            return
        if self.frames or self.conn.reader.buffer or self._begun is not None:
            self._count()
        if len(data) >= SMALL and not self.read_paused:
            # Else libuv would go on with this connection, 32 times what it reads at once, before it looks at others.
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not (self.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.frames = []
        self._hold(0)
        super().connection_lost(exc)

    def handle_cont(self, event: Frame) -> None:
        self._pieces += len(event.data)
        super().handle_cont(event)

    def _count(self) -> None:
        """See what is here of a message that is not whole, and end the connection if that is too much."""
        if not self.frames:
            self._pieces = 0
        elif not self._pieces:
            self._pieces = len(self.frames[0])
        size = self._pieces + len(self.conn.reader.buffer)
        if not size and not self.frames:
            self._begun = None
        elif self._begun is None:
            self._begun = self.loop.time()
        if len(self.frames) > _MOST_PIECES:
            self._fail(1008, f"a message has {_MOST_PIECES} frames at most")
        elif not self._hold(max(0, size - SMALL)):
            self._fail(1013, "too many large messages are on their way already")

    def _hold(self, size: int) -> bool:
        """Have so much counted as this connection's, if there is room."""
        more = size - self._held
        if more > 0 and Upgraded._coming + more > MOST_COMING * (self.config.ws_max_size or 0):
            return False
        Upgraded._coming += more
        self._held = size
        return True

    def _fail(self, code: int, words: str) -> None:
        if not (self.close_sent or self.transport.is_closing()):
            self.conn.fail(code, words)
            self.handle_parser_exception()
        self.frames = []
        self._hold(0)

    def handle_ping(self) -> None:
        """Answer, but for a client that does not read: RFC 6455 lets older pings go unanswered."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def send_keepalive_ping(self) -> None:
        if self.close_sent or self.transport.is_closing():
            # What is left for its client is not read, and no pong is waited for: it would be kept until then.
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
            return
        if self._begun is not None:
            arrived = self._pieces + len(self.conn.reader.buffer)
            if self.loop.time() - self._begun > (self.ping_timeout or 0) + arrived / LEAST_RATE:
                self._fail(1008, "the message did not arrive in time")
        super().send_keepalive_ping()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._begun is not None:
            self._begun = self.loop.time()  # until now it was the gateway that did not read
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # it was refused, which uvicorn logs as a mistake of ours

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # what waits for this client would be kept until it is read, which is never
