"""Where the gateway meets the network: uvicorn's protocol, bounded in what comes before a body, one write an answer.

Above: `process`. Below: uvicorn and httptools.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_HTTP_2_OFFER: Final = re.compile(rb"(?i)(?<=\r\n)upgrade(?=:[ \t]*h2c[ \t]*\r\n)")
"""The name of the header by which Java's client and `curl --http2` offer HTTP/2. A server may decline, but httptools
would take the body that follows for the new protocol; so the name is made another one, of the same length."""

_MOST_DISCARDED: Final = 64 * 1024 * 1024
"""Bytes of a refused request that are still read: who hangs up on a client that writes takes the refusal from it."""
_LINGER_SECONDS: Final = 5.0


class _OneWrite:
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


def limited(max_header: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a bound on the bytes before the body, which httptools itself does not have."""

    class Limited(HttpToolsProtocol):
        _beside_body = 0
        """Bytes since the last one of a body: headers, trailers, the sizes of chunks."""
        _in_head = True
        _refused = False
        _discarded = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.transport = cast("asyncio.Transport", _OneWrite(transport))

        def data_received(self, data: bytes) -> None:
            if self._refused:
                self._discard(data)
                return
            self._beside_body += len(data)
            if self._in_head and b"h2c" in data:
                data = _HTTP_2_OFFER.sub(b"ignored", data)
            super().data_received(data)
            if self._beside_body > max_header and not (self._refused or self.transport.is_closing()):
                self._refuse()  # more than all headers may have, and still no end

        def on_message_begin(self) -> None:
            self._in_head = True
            self._discarded = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._beside_body = 0
            head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if head > max_header:
                self._refuse()
            else:
                super().on_headers_complete()
                self.headers = []  # for trailers, which nobody looks at; the request keeps its own

        def on_body(self, body: bytes) -> None:
            self._beside_body = 0
            if self._refused or self.cycle.response_complete:
                self._discard(body)
            else:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_head = True  # the next one's
            if not self._refused:
                super().on_message_complete()

        def _refuse(self) -> None:
            self._refused = True
            message = f'{{"error":"the headers have more than {max_header} bytes"}}'.encode()
            self.transport.write(
                b"".join(
                    (
                        STATUS_LINE[431],
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

    return Limited
