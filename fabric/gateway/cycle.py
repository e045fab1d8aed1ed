"""One request and its response on a connection: uvicorn's, made with less, and sent with one system call.

Above: `listen`. Below: uvicorn and httptools.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from fabric.gateway.http import TAKES_WHOLE, WHOLE

_LOG: Final = logging.getLogger("uvicorn.error")
_USUAL_URL: Final = b"/mcp"
_USUAL: Final = "/mcp", b""
_NO_HEADERS: Final[list[tuple[bytes, bytes]]] = []


def path_of(url: bytes) -> tuple[str, bytes]:
    """The path of a URL, decoded, and its query."""
    if url == _USUAL_URL:
        return _USUAL
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.query or b""


class OneWrite:
    """A connection that sends at once what is written in one turn of the event loop; in all else the one it is given.

    uvicorn writes the head and the body of a response one after the other, and uvloop sends what is written without
    waiting for more: two system calls and two packets for every small answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def write_whole(self, data: bytes) -> None:
        """Send what nothing follows: there is nothing to wait for."""
        self._held.append(data)
        self._send()

    def write_eof(self) -> None:
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))


class Cycle(RequestResponseCycle):
    """uvicorn's request and response, made with less, and with a short way for a response that is whole."""

    logger = _LOG
    access_log = False
    default_headers = _NO_HEADERS
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0

    def __init__(self, scope: Any, connection: HttpToolsProtocol, *, keep_alive: bool) -> None:
        self.scope = scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.message_event = asyncio.Event()
        self.on_response = connection.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = connection.expect_100_continue
        self.body = bytearray()

    async def send(self, message: Any) -> None:
        if message["type"] != WHOLE:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("a response had begun already")
        body: bytes = message["body"]
        lines = [STATUS_LINE[message["status"]], b"content-length: %d\r\n" % len(body)]
        if body:
            lines.append(b"content-type: application/json\r\n")
        lines += [b"%b: %b\r\n" % header for header in message["headers"]]
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", b"" if self.scope["method"] == "HEAD" else body)
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        cast("OneWrite", self.transport).write_whole(b"".join(lines))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    setattr(send, TAKES_WHOLE, True)
