"""The handshake revisions over HTTP: a session, its stream of what the server says by itself, and its end.

Above: `bridge`. Below: `gateway`, `relay`. A gateway that restarts forgets its sessions. The request that finds that
out gets an error, so that the host knows; the next one opens another session with the host's own `initialize`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
from msgspec import UNSET

from fabric.stdio.gateway import Gateway, Reply
from fabric.stdio.messages import NULL, Message
from fabric.stdio.relay import Relay, Say
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.errors import FabricError, TransportUnavailable

_AGAIN_SECONDS: Final = 1.0
"""Between two attempts to hear what the server says by itself."""
_END_SECONDS: Final = 1.0
"""That the end of a session may take: hosts do not wait long for a program to end."""
_INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'

Headers = dict[str, str]


class SessionEnded(TransportUnavailable):
    """The gateway ended the session, as it does when it restarts; the request was not carried out."""


class _Result(msgspec.Struct):
    """The part of the answer to `initialize` that later requests repeat."""

    version: str = msgspec.field(name="protocolVersion")


class Handshake:
    """The session of one host."""

    def __init__(self, gateway: Gateway, say: Say) -> None:
        self._gateway = gateway
        self._say = say
        self._hello: bytes | None = None
        """The `initialize` that opened the session, and opens the next one."""
        self._session: Headers | None = None
        """What each request in it says; none while there is no session."""
        self._opening = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None

    @property
    def was_made(self) -> bool:
        return self._hello is not None

    async def open(self, hello: bytes, relay: Relay) -> None:
        """Open a session with this `initialize`. Raises as `Gateway.ask` does."""
        async with self._gateway.ask(hello, {}) as reply:
            await relay.all_of(reply)
        if (version := _version(relay.answer)) is not None:
            session = {"mcp-protocol-version": version}
            if reply.session is not None:
                session["mcp-session-id"] = reply.session
            self._hello, self._session = hello, session

    @asynccontextmanager
    async def ask(self, body: bytes) -> AsyncGenerator[Reply]:
        """Send a message in the session, and another one first if it has ended; without a session before the first.

        Raises, beside what `Gateway.ask` does:
            SessionEnded: it ended, unnoticed until now.
        """
        session = await self._current()
        async with self._gateway.ask(body, session) as reply:
            if reply.status == 404 and session:
                if self._session is session:
                    self._session = None
                raise SessionEnded(fix="ask again: the next request opens another session")
            yield reply

    def listen(self) -> None:
        """Pass on from now on what the server says by itself."""
        if self._listening is not None:
            self._listening.cancel()
        if self._session is not None:
            self._listening = asyncio.create_task(self._listen(self._session))

    async def close(self) -> None:
        """End the session."""
        if self._listening is not None:
            await end([self._listening])
        if self._session is not None and "mcp-session-id" in self._session:
            await self._gateway.delete(self._session, timeout=_END_SECONDS)

    async def _current(self) -> Headers:
        if self._session is None and self._hello is not None:
            async with self._opening:
                if self._session is None:
                    await self._open_again(self._hello)
        return self._session or {}

    async def _open_again(self, hello: bytes) -> None:
        await self.open(hello, Relay(NULL, _nobody))
        async with self._gateway.ask(_INITIALIZED, self._session or {}):
            self.listen()

    async def _listen(self, session: Headers) -> None:
        while True:
            with suppress(FabricError):
                async with self._gateway.ask(None, session, method="GET") as reply:
                    if reply.status != 200:
                        return  # there is no such stream, or no such session any more, which the next request tells
                    async for line in reply.messages:
                        await self._say(line)
            await asyncio.sleep(_AGAIN_SECONDS)


async def _nobody(_: bytes) -> None:
    """The host asked for nothing, so it hears nothing."""


def _version(answer: Message | None) -> str | None:
    """The revision that both agreed on, if they did."""
    if answer is None or answer.result is UNSET:
        return None
    try:
        return msgspec.json.decode(answer.result, type=_Result).version
    except msgspec.DecodeError:
        return None
