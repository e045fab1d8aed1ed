"""A whole stream as bytes and back: the broker's own snapshot, consumers and what they still wait for included.

Above: backups. Below: the seam. The server packs a stream as it is at one moment and sends it in pieces, each of which
is acknowledged; what comes back keeps every sequence, time, header and consumer. What is
inside is the server's affair.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from typing import Any, Final
from uuid import uuid4

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import replicas
from fabric_sdk.jetstream.api import JetStream, Refused, checked, settle_for_one

PIECE_BYTES: Final = 32 * 1024
"""Of what is sent back, one piece at a time. A server that syncs always stores message by message, unpacks twenty times
as much, and reads nothing else from the connection meanwhile: a larger piece would keep it from answering pings."""
_TAKEN_BYTES: Final = 128 * 1024
"""Of what is asked for."""
_QUIET_SECONDS: Final = 30.0
"""Without a piece: the server gave up."""
_END: Final = frozenset((None, "204"))
"""How the last message is marked: the server's earlier versions do not mark it."""


class Snapshot:
    """A stream as it is now. Made by `take`."""

    def __init__(self, jetstream: JetStream, name: str) -> None:
        self._jetstream = jetstream
        self._name = name
        self._came: deque[Message] = deque()
        self._more = asyncio.Event()
        self.config: dict[str, Any] = {}
        """How the stream is configured, as the server says."""
        self.state: dict[str, Any] = {}
        """What is in it: `messages`, `bytes`, `first_seq`, `last_seq`, …"""

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Take it: `config` and `state` are known from the first piece on.

        Raises:
            Missing: there is no such stream.
            TransportUnavailable: the server does not answer, or stopped in the midst of it.
            Refused: the stream is damaged, or is being packed already.
        """
        where = subjects.inbox(uuid4().hex, 1)
        listening = await self._jetstream.transport.subscribe(where, self._take)
        asked = {"deliver_subject": where, "chunk_size": _TAKEN_BYTES}
        try:
            about = await self._jetstream.request(f"STREAM.SNAPSHOT.{self._name}", asked)
            self.config, self.state = about["config"], about["state"]
            while piece := await self._next():
                yield piece
        finally:
            await listening.close()

    async def _next(self) -> bytes:
        """The next piece; empty at the end."""
        while not self._came:
            self._more.clear()
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._more.wait()
            except TimeoutError:
                raise errors.TransportUnavailable(f"the server stopped sending {self._name}") from None
        message = self._came.popleft()
        piece = message.body.encoded()
        if not piece and message.header(Header.STATUS) not in _END:
            said = message.header("Description") or message.header(Header.STATUS)
            raise errors.TransportUnavailable(f"the server stopped sending {self._name}: {said}")
        if message.reply:
            await self._jetstream.transport.publish(Message(message.reply))
        return piece

    def _take(self, message: Message) -> None:
        self._came.append(message)
        self._more.set()


async def restore(
    jetstream: JetStream,
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    pieces: Callable[[], AsyncIterable[bytes]],
) -> dict[str, Any]:
    """Make the stream anew from the pieces of a snapshot, begun afresh as often as asked for; returns its state as the
    server has it then.

    It is kept on as many servers as the environment says; else on as many as it was, or on one of a cluster of fewer.

    Raises:
        TooFewServers: there are fewer than the environment says.
        Refused: there is a stream of this name, or the server cannot have one like it, or the pieces are damaged.
        QueueFull: the server has not the room that the stream reserves.
        TransportUnavailable: the server does not answer; what it has of the stream, it removes.
    """
    wanted = {**config, "num_replicas": replicas.stated() or config["num_replicas"]}
    while True:
        try:
            return await _restored(jetstream, wanted, state, pieces())
        except Refused as refused:  # a server without a cluster says so only after the last piece
            settle_for_one(wanted, refused)


async def _restored(
    jetstream: JetStream, config: Mapping[str, Any], state: Mapping[str, Any], pieces: AsyncIterable[bytes]
) -> dict[str, Any]:
    about = await jetstream.request(f"STREAM.RESTORE.{config['name']}", {"config": config, "state": state})
    where: str = about["deliver_subject"]
    async for piece in pieces:
        if (answer := await _sent(jetstream, where, Body(encoded=piece))).body.encoded():
            checked(answer)
    return checked(await _sent(jetstream, where, EMPTY))["state"]


async def _sent(jetstream: JetStream, where: str, body: Body) -> Message:
    return await jetstream.ask(Message(where, body), _QUIET_SECONDS)
