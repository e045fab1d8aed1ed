"""Where the gateway meets the network: uvicorn's protocol, with bounds, so that no client takes it from others.

Above: `process`. Below: `cycle`, `rounds`, uvicorn and httptools. Bounded are the bytes before a body, the time in
which a request has to arrive and an answer to be read, and the connections that are open at once.
"""

from __future__ import annotations

import asyncio
import heapq
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fabric.gateway.cycle import Cycle, OneWrite, path_of
from fabric.gateway.http import LEAST_RATE
from fabric.gateway.rounds import Rounds
from fabric.gateway.upgraded import PATH

_HTTP_2_OFFER: Final = re.compile(rb"(?i)(?<=\r\n)upgrade(?=:[ \t]*h2c[ \t]*\r\n)")
"""The name of the header by which Java's client and `curl --http2` offer HTTP/2. A server may decline, but httptools
would take the body that follows for the new protocol; so the name is made another one, of the same length."""

_SOCKETS: Final = PATH.encode()
_MOST_DISCARDED: Final = 64 * 1024 * 1024
"""Bytes of a refused request that are still read: who hangs up on a client that writes takes the refusal from it."""
_LINGER_SECONDS: Final = 5.0
MOST_UNREAD: Final = 512 * 1024 * 1024

_IDLE_SECONDS: Final = 5.0
"""Between two looks at who has asked nothing for long."""
_LOOKS: Final = 4
"""Looks at who is waited for in the time that a client has; never less often than once a second."""
_STRANGERS: Final = 4
"""This part of all connections may be such as have no whole request yet."""
_MOST_AHEAD: Final = 64
"""Requests that one connection may send ahead of the answer to the first: thousands fit into what is read at once."""
_LEAVE_AT_ONCE: Final = 64
"""This part of the idle connections is closed when there are too many: to look for one each time would be dear."""


def limited(
    max_header: int, client_timeout: float, max_connections: int, most_unread: int = MOST_UNREAD
) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with bounds that uvicorn and httptools do not have.

    Args:
        max_header: bytes before a body.
        client_timeout: seconds for a request to arrive (and one more for each `LEAST_RATE`), and in which a client
            reads some of an answer that waits for it.
        max_connections: that are open at once; beyond it, idle ones make room.
        most_unread: bytes of answers that wait for all clients together; beyond it, the slowest reader is let go.
    """
    bounds = Bounds(max_header, client_timeout, max_connections, most_unread)
    return cast("type[HttpToolsProtocol]", partial(Connection, bounds))  # uvicorn calls it, and no more


class Bounds:
    """What one server's connections may take, and what they have taken."""

    def __init__(self, max_header: int, client_timeout: float, max_connections: int, most_unread: int) -> None:
        self.max_header, self.client_timeout = max_header, client_timeout
        self.max_connections, self.most_unread = max_connections, most_unread
        self.waited_for = Rounds(min(1.0, client_timeout / _LOOKS), Connection.look)
        """Connections whose client is waited for. A request that comes whole is never among them."""
        self.kept = Rounds(_IDLE_SECONDS, Connection.leave_if_idle)
        """All that may be kept for a next request."""
        self.unread: dict[Connection, int] = {}
        """Bytes of answers that wait for their clients, by connection."""


class Connection(HttpToolsProtocol):
    """One connection of a client, HTTP/1.1."""

    _beside_body = 0
    """Bytes since the last one of a body: headers, trailers, the sizes of chunks."""
    _in_head = True
    _begun = False
    """Whether the beginning of a request is there, and its end is not."""
    _whole = False
    """Whether the bytes that came last ended with the end of a request."""
    _arriving_since: float | None = None
    """Since when the client is waited for, if it is: it has connected, or sent a part of a request."""
    _arrived = 0
    """Bytes that came since then."""
    _unread_since: float | None = None
    """Since when the client has read nothing of an answer that waits for it, if one does."""
    _unread = 0
    """Bytes that wait."""
    _refused = False
    _discarded = 0

    _idle_since: float = 0.0
    """When the last answer was complete."""
    _worked_on: Cycle | None = None
    """The request that is answered now, or was last; `cycle` is the one that came last, and may wait in `pipeline`."""

    def __init__(self, bounds: Bounds, *arguments: Any, **named: Any) -> None:
        """`bounds`: shared by all connections of a server."""
        super().__init__(*arguments, **named)
        self._bounds = bounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._bounds.kept.add(self)
        self.transport = cast("asyncio.Transport", OneWrite(transport))
        transport.set_write_buffer_limits(0)  # whatever the client does not take is to be known
        self._arriving_since = self.loop.time()
        self._bounds.waited_for.add(self)
        if len(self.connections) > self._bounds.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounds.waited_for.remove(self)
        self._bounds.kept.remove(self)
        self._bounds.unread.pop(self, None)
        super().connection_lost(exc)
        if self._worked_on is not None and not self._worked_on.response_complete:
            self._worked_on.disconnected = True  # uvicorn tells the last one alone, and one before it may be a stream
            self._worked_on.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discard(data)
            return
        self._beside_body += len(data)
        self._whole = False
        if self._in_head and b"h2c" in data:
            data = _HTTP_2_OFFER.sub(b"ignored", data)
        super().data_received(data)
        if self._beside_body > self._bounds.max_header and not (self._refused or self.transport.is_closing()):
            self._refuse_bad(self._refuse_head)  # more than all headers may have, and still no end
        if not self._whole:
            self._goes_on(len(data))
        elif self._arriving_since is not None:
            # After one that was answered before it was whole, uvicorn would wait for the next one for ever.
            self._arriving_since = None if self._is_answering else self.loop.time()
            self._arrived = 0
            self._watch_no_longer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since = self.loop.time()
        self._unread = self.transport.get_write_buffer_size()
        self._bounds.waited_for.add(self)
        self._bounds.unread[self] = self._unread
        while sum(self._bounds.unread.values()) > self._bounds.most_unread:
            self._let_go_of_the_slowest()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = None
        self._bounds.unread.pop(self, None)
        self._watch_no_longer()

    def _let_go_of_the_slowest(self) -> None:
        """Make room for answers: whoever has read nothing for longest loses its own."""
        slowest = min(self._bounds.unread, key=Connection._unread_from)
        del self._bounds.unread[slowest]
        slowest.transport.abort()

    def _unread_from(self) -> float:
        return 0.0 if self._unread_since is None else self._unread_since

    def look(self, now: float) -> None:
        """End the connection if its client has had its time."""
        if self._unread_since is not None:
            waiting = self.transport.get_write_buffer_size()
            if waiting < self._unread:
                self._unread, self._unread_since = waiting, now
                self._bounds.unread[self] = waiting
            elif now - self._unread_since > self._bounds.client_timeout:
                self.transport.abort()  # a request being worked on ends as when its client leaves
                return
        if self._arriving_since is None or self._refused or self.transport.is_closing():
            return
        if self._is_held_up():
            self._arriving_since = now
        elif now - self._arriving_since > self._bounds.client_timeout + self._arrived / LEAST_RATE:
            self._end_arriving()

    def on_response_complete(self) -> None:
        """As uvicorn has it, but for the timer that it sets and stops again for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._worked_on = cast("Cycle", cycle)
            self._start_asgi_task(cycle, app)
        else:
            self._idle_since = self.loop.time()

    def leave_if_idle(self, now: float) -> None:
        """Close the connection if nothing was asked for long."""
        quiet = self._arriving_since is None and not self._is_answering and not self._refused
        if quiet and now - self._idle_since > self.timeout_keep_alive and not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head = self._begun = True
        self._whole = False
        self._discarded = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """As uvicorn has it, but for what the gateway never looks at."""
        self._in_head = False
        if self._refused:
            return  # what was read with it goes unanswered
        if len(self.pipeline) >= _MOST_AHEAD:
            self._take_no_more()
            return
        came, self._beside_body = self._beside_body, 0
        if came > self._bounds.max_header and self._head_size() > self._bounds.max_header:
            self._refuse_bad(self._refuse_head)
            return
        parser = cast("httptools.HttpRequestParser", self.parser)  # it is what calls this
        scope: Any = {
            "type": "http",
            "method": parser.get_method().decode("ascii"),
            "client": self.client,
            "headers": self.headers,
        }
        self.scope = scope
        if parser.should_upgrade() and self._should_upgrade():
            return  # it becomes a WebSocket, by these headers
        self.headers = []  # for trailers, which nobody looks at; the request keeps its own
        scope["path"], scope["query_string"] = path_of(self.url)
        # httptools takes what follows an offer to be of the protocol that it names: of a body, requests would be made.
        keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0" and not parser.should_upgrade()
        cycle = Cycle(scope, self, keep_alive=keep_alive)
        is_free = not self._is_answering
        self.cycle = cycle
        app = cast("Any", self).app
        if is_free:
            self._worked_on = cycle
            self._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        if self._refused or not self._has_cycle or self.cycle.response_complete:
            self._discard(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = self._whole = True  # the head is the next one's
        self._begun = False
        if not self._refused:
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        # Not while a request is answered, which would go on into the socket, and not hear that its client left.
        return self.url.partition(b"?")[0] == _SOCKETS and not self._is_answering and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        self._whole = True
        self._arriving_since = None
        self._bounds.waited_for.remove(self)
        self._bounds.kept.remove(self)  # a socket has its own idea of silence, …
        self._bounds.unread.pop(self, None)  # … and of who does not read
        super().handle_websocket_upgrade()

    def _goes_on(self, size: int) -> None:
        """Wait for the rest of a request of which `size` more bytes came."""
        if self._arriving_since is None:
            self._arriving_since = self.loop.time()
            self._bounds.waited_for.add(self)
        self._arrived += size

    def _watch_no_longer(self) -> None:
        if self._arriving_since is None and self._unread_since is None:
            self._bounds.waited_for.remove(self)

    def _is_held_up(self) -> bool:
        """Whether it is the gateway that a request waits for: an earlier one of its connection is worked on."""
        return self.flow.read_paused or bool(self.pipeline) or (self._in_head and self._is_answering)

    @property
    def _has_cycle(self) -> bool:
        # uvicorn's type forgets that there is none before the first request.
        return cast("Cycle | None", self.cycle) is not None

    @property
    def _is_answering(self) -> bool:
        return self._has_cycle and not self.cycle.response_complete

    def _end_arriving(self) -> None:
        if not self._begun or (not self._in_head and self.cycle.response_started):
            self.transport.close()  # nothing is asked, or it is being answered already: there is nothing to say
            return
        self._refuse(408, f"the request did not arrive within {self._bounds.client_timeout:g} s")
        if not self._in_head:  # the application waits for the body
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _make_room(self) -> None:
        """Close connections that wait for their client, those first that have been quiet for longest.

        If this one is the only such, it is the one that goes. Those without a whole request go first only when they
        are many: a flood of them then leaves the ones of clients alone, and few newcomers displace no other.
        """
        everyone = [each for each in self.connections if isinstance(each, Connection)]  # sockets are all in use
        strangers = [each for each in everyone if each._arriving_since is not None and not each._is_held_up()]
        known = [each for each in everyone if each._arriving_since is None and not each._is_answering]
        leaving = strangers if len(strangers) > self._bounds.max_connections // _STRANGERS or not known else known
        for each in heapq.nsmallest(max(1, len(leaving) // _LEAVE_AT_ONCE), leaving, key=Connection._quiet_since):
            each._leave()

    def _quiet_since(self) -> float:
        if self._arriving_since is not None:
            return self._arriving_since
        return 0.0 if self._refused else self._idle_since

    def _leave(self) -> None:
        self.connections.discard(self)
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse_bad(partial(super().send_400_response, msg))

    def _refuse_bad(self, refuse: Callable[[], None]) -> None:
        """Have what came last refused, unless an answer is due: a refusal would be taken for that one."""
        if self._refused:
            return
        arriving = self._is_answering and self.cycle.more_body  # what is wrong is within its body
        if arriving and self.pipeline:
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else cast("Cycle", self._worked_on)
        elif arriving and self.cycle.response_started:
            self.transport.close()
            return
        elif not self._is_answering or arriving:
            refuse()
            return
        self._take_no_more()

    def _refuse_head(self) -> None:
        self._refuse(431, f"the headers have more than {self._bounds.max_header} bytes")

    def _take_no_more(self) -> None:
        """Answer what is here, and close: a client that sends ahead has to expect it (RFC 9112, section 9.3.2)."""
        self._refused = True
        self.cycle.keep_alive = False

    def _refuse(self, status: int, reason: str) -> None:
        self._refused = True
        message = f'{{"error":"{reason}"}}'.encode()
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[status],
                    b"content-type: application/json\r\ncontent-length: %d\r\n" % len(message),
                    b"connection: close\r\n\r\n",
                    message,
                )
            )
        )
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _MOST_DISCARDED:
            self.transport.close()
