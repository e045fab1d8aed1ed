"""A small table that everybody reads all the time: kept by the broker, held in memory, followed as it changes.

Above: the platform's keys, mounts, approvals. Below: the reader. A row is the last message on its subject; a removed
one is an empty message that goes by itself. Reading costs no question; what one process writes, all others see within
a message's way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import EMPTY, Body
from fabric_sdk.contracts.streams import Stream
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream.api import JetStream
from fabric_sdk.jetstream.reading import Reader

log = logging.getLogger(__name__)

_GRAVE_SECONDS: Final = 86_400
"""For so long an empty message says that a row was removed: longer than any reader is behind."""
_AGAIN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One row, as it stands."""

    sequence: int
    """Grows with every change."""
    value: Any
    """JSON."""


class Table:
    """The rows whose subjects begin with `prefix`, by the rest of their subjects."""

    def __init__(
        self, jetstream: JetStream, stream: Stream, prefix: str, on_change: Callable[[str], None] | None = None
    ) -> None:
        self.ready = asyncio.Event()
        """Set once all rows that there were have come."""
        self._jetstream = jetstream
        self._stream = stream
        self._prefix = prefix
        self._on_change = on_change
        self._rows: dict[str, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        return iter(list(self._rows.items()))

    def get(self, key: str) -> Row | None:
        """The row, as this process knows it."""
        return self._rows.get(key)

    async def run(self) -> None:
        """Follow the table until cancelled, however often the broker goes away."""
        while True:
            reader = Reader(
                self._jetstream, self._stream, (f"{self._prefix}>",), {"deliver_policy": "last_per_subject"}
            )
            try:
                expected = await reader.open()
            except errors.FabricError as away:
                log.debug("the table %s cannot be read yet: %s", self._prefix, away)
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            try:
                if not expected:
                    self.ready.set()
                async for delivery in reader:
                    self._take(delivery.message.subject, delivery.sequence, delivery.message.body)
                    if reader.seen >= expected:
                        self.ready.set()
            finally:
                await reader.close()

    async def put(self, key: str, value: Any, *, expected: int | None = None, seconds: float | None = None) -> int:
        """Write a row; returns its new sequence. This process sees it when it comes back from the broker.

        Args:
            key: the rest of its subject.
            value: any JSON value.
            expected: the sequence that it must have until now; 0: it must not be there.
            seconds: after which it goes by itself; never, by default.

        Raises:
            WrongSequence: it is not as `expected`.
            FabricError: the broker refuses, or does not answer.
        """
        return await self._store(key, Body(value), expected, seconds)

    async def remove(self, key: str, *, expected: int | None = None) -> None:
        """Remove a row; nothing, if this process knows of none.

        Raises:
            WrongSequence, FabricError: as `put`.
        """
        if key in self._rows or expected is not None:
            await self._store(key, EMPTY, expected, _GRAVE_SECONDS)

    async def _store(self, key: str, body: Body, expected: int | None, seconds: float | None) -> int:
        await self._jetstream.ensure(self._stream)
        headers: dict[str, str] = {}
        if expected is not None:
            headers[Header.EXPECTED] = str(expected)
        if seconds is not None:
            headers[Header.TTL] = f"{max(1, round(seconds))}s"
        return (await self._jetstream.store(f"{self._prefix}{key}", body, headers)).sequence

    def _take(self, subject: str, sequence: int, body: Body) -> None:
        key = subject.removeprefix(self._prefix)
        try:
            if encoded := body.encoded():
                self._rows[key] = Row(sequence, Body(encoded=encoded).value())
            else:
                self._rows.pop(key, None)
        except ValueError:
            log.warning("%s is not a row of ours", subject)
            return
        if self._on_change is not None:
            self._on_change(key)
