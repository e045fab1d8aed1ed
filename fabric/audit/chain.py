"""Batches of entries, each of which holds the hash of the batch before it of the same writer. Pure.

Above: the trail, which writes them; reading, which verifies. Below: entries. What is stored cannot be changed in its
place, so a change is a removal, or a forgery of all that comes after: the stream's own numbers show the one, the chains
both. What no chain shows is that its newest batches were never written; a writer that ended in order says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from fabric.audit.entry import Entry
from fabric_sdk.contracts import subjects


class _Link(msgspec.Struct, frozen=True):
    """What a batch says before its entries."""

    writer: str
    """One process's run: `gateway-…`, `platform-…`."""
    number: int
    """From 1."""
    at: float
    """When it was written: Unix time in seconds."""
    previous: str
    """The SHA-256 of the batch before; empty in the first."""
    previous_at: float
    """When that was written."""
    last: bool
    """Whether the writer ends with it."""


class Batch(_Link, frozen=True):
    """What one writer noted in a short while."""

    entries: list[Entry]


class _Raw(_Link, frozen=True):
    """The same, of entries that are encoded already."""

    entries: Sequence[msgspec.Raw]


encode = msgspec.json.Encoder().encode
_read = msgspec.json.Decoder(Batch).decode


class Chain:
    """The writer's end of its chain."""

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self._number = 0
        self._digest = ""
        self._at = 0.0

    def link(self, entries: Sequence[bytes], at: float, *, last: bool = False) -> bytes:
        """The next batch, of these encoded entries."""
        self._number += 1
        raw = [msgspec.Raw(each) for each in entries]
        batch = encode(_Raw(self.writer, self._number, at, self._digest, self._at, last, raw))
        self._digest, self._at = digest(batch), at
        return batch


def digest(batch: bytes) -> str:
    """What the next batch says of this one."""
    return hashlib.sha256(batch).hexdigest()


def read(body: bytes) -> Batch | None:
    """The batch in a message, if it is one."""
    try:
        return _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written."""

    sequence: int
    """The place in the stream where it shows."""
    writer: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far one writer's chain goes. Kept elsewhere, it shows later that nothing was cut off or forged up to here."""

    writer: str
    number: int
    digest: str
    at: float
    ended: bool


@dataclass(slots=True)
class Verifier:
    """Takes the messages of the stream in their order, and finds what is wrong with them."""

    forgets: float
    """Unix time: what was written before it may be gone for its age; infinite, where size alone may explain it."""
    findings: list[Finding] = field(default_factory=list[Finding])
    heads: dict[str, Head] = field(default_factory=dict[str, Head])
    batches: int = 0
    entries: int = 0
    lost: int = 0
    """Entries that their writers say were not kept."""
    _sequence: int = 0

    def begin(self, first: int, created: float) -> None:
        """The stream begins with this message now, and was made at this time."""
        if first > 1 and self.forgets <= created:
            self._find(first, "", f"the messages before {first} are gone, and are not old enough to be")
        self._sequence = first - 1

    def take(self, sequence: int, subject: str, body: bytes) -> None:
        """Look at the next message."""
        if sequence > self._sequence + 1:
            self._gone(self._sequence + 1, sequence - 1)
        self._sequence = sequence
        batch = read(body)
        if batch is None or subject != subjects.audit(batch.writer):
            self._find(sequence, "", "it was not written by the fabric")
            return
        self._link(sequence, batch, self.heads.get(batch.writer))
        self.heads[batch.writer] = Head(
            writer=batch.writer, number=batch.number, digest=digest(body), at=batch.at, ended=batch.last
        )
        self.batches += 1
        self.entries += len(batch.entries)
        self.lost += sum(max(0, each.count) for each in batch.entries if each.outcome == "lost")

    def end(self, last: int) -> None:
        """The stream has come so far."""
        if last > self._sequence:
            self._gone(self._sequence + 1, last)

    def _link(self, sequence: int, batch: Batch, before: Head | None) -> None:
        if batch.number < 1:
            self._find(sequence, batch.writer, "it has no number that a writer counts to")
        elif before is None:
            if batch.number > 1 and batch.previous_at >= self.forgets:
                self._find(sequence, batch.writer, f"batch {batch.number - 1} is gone, and is not old enough to be")
            if (batch.number == 1) != (batch.previous == ""):
                self._find(sequence, batch.writer, "it is no beginning, and names nothing before it")
        elif before.ended:
            self._find(sequence, batch.writer, "its writer had ended")
        elif batch.number != before.number + 1:
            self._find(sequence, batch.writer, f"batch {before.number + 1} is missing before batch {batch.number}")
        elif batch.previous != before.digest:
            self._find(sequence, batch.writer, f"batch {before.number} is not what batch {batch.number} says it was")

    def _gone(self, first: int, last: int) -> None:
        what = f"message {first} is gone" if first == last else f"messages {first} to {last} are gone"
        self._find(first, "", what)

    def _find(self, sequence: int, writer: str, what: str) -> None:
        self.findings.append(Finding(sequence, writer, what))
