"""HTTP/1.1 over one connection that is kept, and nothing else: what asks must cost less than what answers.

Above: the users. Below: sockets, which locust has made cooperative. Locust's own fast client takes about three times as
long over a request as this does (README.md), and all of it is taken from the fabric on the same cores.
"""

from __future__ import annotations

import socket

_SECONDS = 30.0
_READ = 65_536
_ENDS = (b"\r\n0\r\n\r\n", b"0\r\n\r\n")


class Broken(ConnectionError):
    """The connection ended before the answer did: whether the work was done is not known."""


class Wire:
    """One connection to a gateway."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Send a request; the answer's status, head and body, whose chunks are left as they came.

        Raises:
            OSError: nobody listens, or the connection broke.
        """
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=_SECONDS)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(request)
            head, body = self._head(self._socket)
            return int(head[9:12]), head, self._body(self._socket, head, body)
        except BaseException:  # whatever it is, half an answer must not be read as the next one's
            self.close()
            raise

    def _head(self, connection: socket.socket) -> tuple[bytes, bytes]:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more(connection)
        return data[: end + 2], data[end + 4 :]

    def _body(self, connection: socket.socket, head: bytes, body: bytes) -> bytes:
        at = head.find(b"content-length: ")
        if at >= 0:
            length = int(head[at + 16 : head.index(b"\r\n", at)])
            while len(body) < length:
                body += self._more(connection)
        elif b"transfer-encoding: chunked" in head:
            while not (body == _ENDS[1] or body.endswith(_ENDS[0])):
                body += self._more(connection)
        if b"connection: close" in head:
            self.close()
        return body

    @staticmethod
    def _more(connection: socket.socket) -> bytes:
        if not (data := connection.recv(_READ)):
            raise Broken("the connection was closed")
        return data


def post(path: str, body: bytes, **lines: str) -> bytes:
    """A request; names of headers with `_` for `-`."""
    return _request("POST", path, f"content-length: {len(body)}\r\ncontent-type: application/json\r\n", lines) + body


def get(path: str, **lines: str) -> bytes:
    """A request without a body."""
    return _request("GET", path, "", lines)


def _request(method: str, path: str, more: str, lines: dict[str, str]) -> bytes:
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{more}{head}\r\n".encode()
