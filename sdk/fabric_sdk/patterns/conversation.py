"""Conversations: what an agent has to remember from one call to the next, kept outside every process.

Guarantee: **what was appended is read back in order**, after a restart of everything, by whoever knows the id. An
append, or a snapshot, may insist on being the next one (compare-and-set).

Above: `client`, handlers. Below: JetStream: one subject for each conversation, one message for each entry; a snapshot
takes the place of all before it in one step.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import stated
from fabric_sdk.contracts.scope import current_effects
from fabric_sdk.contracts.streams import CONVERSATIONS
from fabric_sdk.contracts.subjects import Header, number
from fabric_sdk.jetstream import JetStream, Missing, Reader, WrongSequence

log = logging.getLogger(__name__)

_ALL: Final = {"deliver_policy": "all"}
_SILENCE: Final = 5.0
"""Seconds without an entry after which a reader looks whether there is still one to come."""


def _until(headers: Mapping[str, str] | None) -> float:
    """When a conversation that ends in this message is forgotten: Unix time in seconds."""
    until = number((headers or {}).get(Header.EXPIRES))
    return math.inf if until is None else until


class Conflict(errors.FabricError):
    """Somebody else wrote to this conversation in between; read it again."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A conversation, as it is."""

    snapshot: Any
    """What the last snapshot kept; `None` if there was none."""
    entries: list[Any]
    """What was appended since, oldest first."""
    version: int
    """To insist on: 0 for a conversation that is empty."""


class Conversation:
    """One conversation's memory."""

    def __init__(self, jetstream: JetStream, conversation_id: str, keep: float | None) -> None:
        self.id = subjects.checked_token(conversation_id)
        self._jetstream = jetstream
        self._subject = subjects.conversation(self.id)
        self._keep = keep

    async def append(self, entry: Any, *, expected: int | None = None) -> int:
        """Remember one thing more; returns the version that this makes.

        In a task, an attempt that is repeated appends nothing twice.

        Args:
            entry: a JSON value, which must fit into one message.
            expected: the version that this must follow.

        Raises:
            InvalidParams: it is no JSON value.
            MessageTooLarge: it does not fit into one message.
            Conflict: `expected` is not the latest.
            QueueFull: no more can be kept.
        """
        return await self._store(entry, expected, {})

    async def snapshot(self, state: Any, *, expected: int | None = None) -> int:
        """Remember this in place of all there was until now; returns the version that this makes.

        Raises:
            InvalidParams: it is no JSON value.
            MessageTooLarge: it does not fit into one message.
            Conflict: `expected` is not the latest.
        """
        return await self._store(state, expected, {Header.ROLLUP: "sub", Header.SNAPSHOT: "1"})

    async def version(self) -> int:
        """Its latest version: 0 if nothing was appended, or it has expired."""
        await self._jetstream.ensure(CONVERSATIONS)
        last = await self._jetstream.last(CONVERSATIONS, self._subject)
        if last is None or _until(last.headers) <= time.time():
            return 0
        return last.sequence

    async def read(self) -> Remembered:
        """All of it; empty if nothing was appended, or it has expired."""
        await self._jetstream.ensure(CONVERSATIONS)
        while True:
            last = await self._jetstream.last(CONVERSATIONS, self._subject)
            if last is None:
                return Remembered(None, [], 0)
            if _until(last.headers) <= time.time():
                await self._drop(last.sequence)
                return Remembered(None, [], 0)
            try:
                return await self._read_to(last.sequence)
            except TimeoutError:
                continue  # somebody forgot it meanwhile, or the broker is away

    async def _read_to(self, version: int) -> Remembered:
        """All of it as far as this version, or the snapshot that has taken its place.

        Raises:
            TimeoutError: nothing comes any more.
        """
        reader = Reader(self._jetstream, CONVERSATIONS, (self._subject,), _ALL)
        snapshot, entries, place = None, list[Any](), 0
        known, until = set[str](), math.inf
        try:
            await reader.open()
            while place < version:
                async with asyncio.timeout(_SILENCE):
                    delivery = await anext(reader)
                message, place = delivery.message, delivery.sequence
                if delivery.stored >= until:  # what came before had expired by then, whether anybody looked or not
                    snapshot, entries = None, []
                until = _until(message.headers)
                if (name := message.header(Header.MESSAGE_ID) or str(place)) in known:
                    continue  # an attempt repeated it so late that the server did not know it for a repetition
                known.add(name)
                try:
                    said = message.body.value()
                except ValueError:
                    log.warning("an entry of conversation %s is no JSON and was passed over", self.id)
                    continue
                if message.header(Header.SNAPSHOT):
                    snapshot, entries = said, []
                else:
                    entries.append(said)
        finally:
            await reader.close()
        return Remembered(snapshot, entries, place)

    async def _drop(self, version: int) -> None:
        """Remove what has expired; what somebody appends at this moment stays."""
        purge = {"filter": self._subject, "seq": version + 1}
        await self._jetstream.request(f"STREAM.PURGE.{CONVERSATIONS.name}", purge)

    async def forget(self) -> bool:
        """Forget all of it; tell whether there was anything."""
        await self._jetstream.ensure(CONVERSATIONS)
        return await self._jetstream.purge(CONVERSATIONS, self._subject) > 0

    async def _store(self, value: Any, expected: int | None, headers: dict[str, str]) -> int:
        body, effects = stated("what is to be remembered", value), current_effects.get()
        said = body.encoded().decode()
        name = effects.name("remember", self.id, said) if effects else uuid4().hex
        headers[Header.MESSAGE_ID] = name
        if expected is not None:
            headers[Header.EXPECTED] = str(expected)
        if self._keep is not None:
            headers[Header.EXPIRES] = f"{time.time() + self._keep:.3f}"
        await self._jetstream.ensure(CONVERSATIONS)
        try:
            return (await self._jetstream.store(self._subject, body, headers)).sequence
        except WrongSequence as newer:
            if expected is not None and (mine := await self._stored(name, expected)):
                return mine
            if effects:
                effects.take_back(name)
            raise Conflict from newer

    async def _stored(self, name: str, expected: int) -> int | None:
        """The version that this very write has made already: of an answer that was lost, the repetition is refused."""
        asked = {"seq": expected + 1, "next_by_subj": self._subject}
        try:
            found = (await self._jetstream.request(f"STREAM.MSG.GET.{CONVERSATIONS.name}", asked))["message"]
        except Missing:
            return None
        return found["seq"] if name.encode() in base64.b64decode(found.get("hdrs", "")) else None
