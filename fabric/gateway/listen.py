"""Where the gateway meets the network: the socket it listens on, and the bound on what comes before a body.

Above: `process`, `node`. Below: sockets and uvicorn's protocol.
"""

from __future__ import annotations

import socket

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fabric_sdk.contracts.errors import ConfigurationError


def limited(max_header: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a bound on the bytes before the body, which httptools itself does not have."""

    class Limited(HttpToolsProtocol):
        _head = 0
        _in_head = True
        _refused = False

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._in_head:
                self._head += len(data)
            super().data_received(data)
            if self._in_head and self._head > max_header:  # more than all headers may have, and still no end
                self._refuse()

        def on_message_begin(self) -> None:
            self._in_head = True
            self._head_read = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._head_read += len(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._head_read += len(name) + len(value) + 4
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            if self._head_read > max_header:
                self._refuse()
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
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
            self.transport.close()

    return Limited


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: the port is taken, or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as taken:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {taken.strerror or taken}",
            fix="choose another with --port, 0 for any free one",
        ) from None
    listener.set_inheritable(True)
    return listener
