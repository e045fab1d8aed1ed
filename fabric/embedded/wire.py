"""The few lines of HTTP, NATS and Redis protocol that tell whether a server is there, and whether it is the right one.

Above: `probe`, the probes of the two servers, and who else asks a server: replicas, `doctor`, benchmarks. Below:
asyncio's streams. It refuses to know why somebody asks, and everything of the protocols that the question does not
need.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

_LONGEST_REPLY = 1024 * 1024  # bytes; a stranger's answer must not fill our memory


class UnexpectedReply(Exception):
    """The other side speaks, but not this protocol; its first bytes are in `said`, empty if it hung up."""

    def __init__(self, said: bytes) -> None:
        super().__init__(f"unexpected reply: {said[:40]!r}" if said else "it closed the connection")
        self.said = said


class RedisRefusal(Exception):
    """Redis answered with an error; its text is the message."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Both directions of an open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    @asynccontextmanager
    async def open(cls, host: str, port: int, *, tls: bool = False) -> AsyncGenerator[Self]:
        """Connect, and hang up at the end. Raises OSError."""
        reader, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context() if tls else None)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def line(self) -> bytes:
        """The next line, without its end. Raises UnexpectedReply if the other side hangs up or never ends the line."""
        try:
            return (await self.reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError as error:
            raise UnexpectedReply(error.partial) from None
        except asyncio.LimitOverrunError as error:
            raise UnexpectedReply(await self.reader.read(error.consumed)) from None

    async def redis(self, *command: str) -> str:
        """The reply to one command that is answered with a string. Raises RedisRefusal or UnexpectedReply."""
        parts = [part.encode() for part in command]
        self.writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        line = await self.line()
        kind, rest = line[:1], line[1:].decode(errors="replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RedisRefusal(rest)
        if kind == b"$" and rest.isdecimal() and int(rest) <= _LONGEST_REPLY:
            return (await self.reader.readexactly(int(rest) + 2))[:-2].decode(errors="replace")
        raise UnexpectedReply(line)


async def http_status(host: str, port: int, path: str) -> tuple[int, str]:
    """The status code and the body of a GET. Raises OSError or UnexpectedReply."""
    async with Connection.open(host, port) as connection:
        connection.writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        status = await connection.line()
        version, _, rest = status.partition(b" ")
        if not version.startswith(b"HTTP/") or not rest[:3].isdigit():
            raise UnexpectedReply(status)
        answer = b""
        while len(answer) < _LONGEST_REPLY and (more := await connection.reader.read(_LONGEST_REPLY)):
            answer += more  # HTTP/1.0: the end of the connection ends the body
        return int(rest[:3]), answer.partition(b"\r\n\r\n")[2].decode(errors="replace")
