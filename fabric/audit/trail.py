"""From a process's memory to the stream: noting is an append, and one task writes.

Above: the gateway, the platform's agents. Below: chains, JetStream. An entry is kept once the broker has its batch on
the disk; until then it waits here, of which there is a bound. What is beyond it is counted, and the count is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final
from uuid import uuid4

from fabric.audit.chain import Chain, encode
from fabric.audit.entry import Entry, Level
from fabric_sdk import FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import AUDIT
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import JetStream, WrongSequence

log = logging.getLogger(__name__)

MOST: Final = 65_536
"""Entries that wait for the broker."""
_TOGETHER: Final = 0.2
"""Seconds for which entries are gathered: of those that a kill loses, none is older."""
_MANY: Final = 1000
"""Entries of one batch, at most, …"""
_LARGE: Final = 256 * 1024
"""… and bytes."""
_AGAIN: Final = 1.0
_PARTING: Final = 5.0
"""Seconds for which a process that ends tries to have the rest kept."""


class Trail:
    """What one process notes."""

    def __init__(self, jetstream: JetStream, kind: str, level: Level) -> None:
        """`kind`: what the process is, `gateway` or `platform`."""
        self.level = level
        self._jetstream = jetstream
        self._waiting: deque[Entry] = deque()
        self._alike: dict[tuple[object, ...], Entry] = {}
        """Of those that wait, the first of each kind that may come in floods."""
        self._lost = 0
        self._stir = asyncio.Event()
        self._away = False
        self._chain = Chain(f"{kind}-{uuid4().hex[:12]}")
        self._sequence = 0
        """The place of what was written last."""
        self._sending: bytes | None = None
        """The batch that the broker has not confirmed."""

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, entry: Entry) -> bool:
        """Have `entry` kept; tells whether there is room for it."""
        if self.level == "off":
            return False
        if len(self._waiting) >= MOST:
            self._lost += 1
            return False
        self._waiting.append(entry)
        if len(self._waiting) == 1:
            self._stir.set()
        return True

    def note_often(self, entry: Entry) -> None:
        """The same for what anybody can cause as often as they like: those alike are one, with their number."""
        alike = (entry.outcome, entry.principal, entry.address, entry.door, entry.agent, entry.tool, entry.rule)
        if (first := self._alike.get(alike)) is not None:
            first.count += 1
        elif self.note(entry):
            self._alike[alike] = entry

    async def run(self) -> None:
        """Write what is noted, until cancelled, however often the broker goes away."""
        while self.level != "off":
            await self._stir.wait()
            if len(self._waiting) < _MANY:
                await asyncio.sleep(_TOGETHER)
            try:
                await self._write()
            except FabricError as away:
                self._tell(away)
                await asyncio.sleep(_AGAIN)

    async def close(self) -> None:
        """Write all that is left, and that nothing follows. Call it when `run` has ended."""
        if not (self._waiting or self._sending or self._sequence):
            return
        try:
            async with asyncio.timeout(_PARTING):
                while self._waiting or self._sending or self._lost:
                    try:
                        await self._write()
                    except FabricError as away:
                        self._tell(away)
                        await asyncio.sleep(_TOGETHER)
                self._sending = self._chain.link((), time.time(), last=True)
                await self._store(self._sending)
        except (TimeoutError, FabricError) as away:
            log.error("the broker does not take the end of the audit log, %d entries: %s", len(self._waiting), away)

    async def _write(self) -> None:
        """Write one batch; what was to be written before comes first, as it was."""
        if self._sending is None:
            self._sending = self._chain.link(self._taken(), time.time())
        await self._store(self._sending)
        self._sending, self._away = None, False
        if not self._waiting and not self._lost:
            self._stir.clear()

    def _taken(self) -> list[bytes]:
        """Entries for the next batch, the oldest first."""
        taken: list[bytes] = []
        size = 0
        while self._waiting and len(taken) < _MANY and size < _LARGE:
            taken.append(encode(self._waiting.popleft()))
            size += len(taken[-1])
        self._alike.clear()
        if self._lost and not self._waiting:  # they came after all that waited
            taken.append(encode(Entry(at=time.time(), outcome="lost", count=self._lost)))
            self._lost = 0
        return taken

    async def _store(self, batch: bytes) -> None:
        """Have the broker keep a batch, once, however often it has to be sent.

        Raises:
            FabricError: it does not, now.
        """
        subject, body = subjects.audit(self._chain.writer), Body(encoded=batch)
        await self._jetstream.ensure(AUDIT)
        try:
            stored = await self._jetstream.store(subject, body, {Header.EXPECTED: str(self._sequence)})
            self._sequence = stored.sequence
        except WrongSequence:
            there = await self._jetstream.last(AUDIT, subject)
            self._sequence = 0 if there is None else there.sequence
            if there is None or there.body.encoded() != batch:
                raise  # it is another stream, or somebody writes as us, which verifying shows: again, after that

    def _tell(self, away: FabricError) -> None:
        """Log that the broker takes nothing, once for as long as that lasts."""
        if not self._away:
            self._away = True
            log.warning("the audit log waits in memory: %s", away)
