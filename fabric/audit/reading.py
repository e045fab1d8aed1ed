"""From the stream: entries by time and by who did what, as they come, and whether they are as they were written.

Above: the agent `audit`, commands. Below: chains, the SDK's reader. Whatever is no batch of ours is passed over here;
verifying tells of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, NamedTuple

import msgspec

from fabric.audit.chain import Finding, Head, Verifier, read
from fabric.audit.entry import Entry, Outcome
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.contracts.streams import AUDIT
from fabric_sdk.jetstream import Delivery, JetStream, Reader

_SLACK: Final = 3600.0
"""Seconds by which clocks, and the server's forgetting, may differ."""
_NEARLY_FULL: Final = 0.9
_LATE: Final = 60.0
"""Seconds between an entry and its batch, at most, while the broker is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries; those that fit all that is stated."""

    since: float = 0.0
    """Unix time in seconds."""
    until: float = inf
    principal: str | None = None
    agent: str | None = None
    outcome: Outcome | None = None

    def fits(self, entry: Entry) -> bool:
        """Whether `entry` is one of them."""
        return (
            self.since <= entry.at <= self.until
            and self.principal in (None, entry.principal)
            and self.agent in (None, entry.agent)
            and self.outcome in (None, entry.outcome)
        )


ANY: Final = Wanted()


class Noted(NamedTuple):
    """An entry where it lies."""

    sequence: int
    """Of its batch."""
    number: int
    """In its batch."""
    writer: str
    entry: Entry

    @property
    def place(self) -> str:
        """Names it; those after it can be asked for."""
        return f"{self.sequence}.{self.number}"

    def shown(self) -> dict[str, Any]:
        """It as JSON."""
        return {"id": self.place, "writer": self.writer, **msgspec.to_builtins(self.entry)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verifying came to."""

    whole: bool
    """Whether all is as it was written."""
    batches: int
    entries: int
    lost: int
    """Entries that were never kept, as the broker was away for too long."""
    findings: list[Finding]
    heads: list[Head]

    def first(self, most: int) -> Verdict:
        """It with no more findings than that, and the newest heads."""
        return replace(self, findings=self.findings[:most], heads=self.heads[-most:])


def place_of(text: str) -> tuple[int, int]:
    """The batch and the entry that `Noted.place` names.

    Raises:
        InvalidParams: it names none.
    """
    sequence, _, index = text.partition(".")
    if not (sequence.isdecimal() and index.isdecimal() and len(text) <= 32):
        raise InvalidParams(f"{text!r} is no entry's id", fix="take it from an entry, like 12.0")
    return int(sequence), int(index)


async def found(
    jetstream: JetStream, wanted: Wanted = ANY, *, after: tuple[int, int] | None = None
) -> AsyncGenerator[Noted]:
    """The entries that there are now, in the order in which they were written; those `after` a place alone."""
    async with aclosing(_there_now(jetstream, _start(wanted, after))) as deliveries:
        async for delivery in deliveries:
            for noted in _entries(delivery):
                if wanted.fits(noted.entry) and (after is None or noted[:2] > after):
                    yield noted


async def newest(jetstream: JetStream, wanted: Wanted, limit: int) -> list[Noted]:
    """The last so many of them, the newest at the end."""
    kept: deque[Noted] = deque(maxlen=limit)
    async with aclosing(found(jetstream, wanted)) as everything:
        async for noted in everything:
            kept.append(noted)
    return list(kept)


async def followed(jetstream: JetStream, wanted: Wanted = ANY) -> AsyncGenerator[Noted]:
    """Entries as they come, without end; from the beginning of what is wanted, where it has one."""
    start = _start(wanted, None) if wanted.since else {"deliver_policy": "new"}
    reader = Reader(jetstream, AUDIT, (subjects.AUDIT,), start)
    await reader.open()
    try:
        async for delivery in reader:
            for noted in _entries(delivery):
                if wanted.fits(noted.entry):
                    yield noted
    finally:
        await reader.close()


async def verified(jetstream: JetStream) -> Verdict:
    """Look at all that there is, and tell what is not as it was written."""
    await jetstream.ensure(AUDIT)
    about = await jetstream.request(f"STREAM.INFO.{AUDIT.name}")
    last: int = about["state"]["last_seq"]  # before reading begins, which goes at least as far: more comes meanwhile
    verifier = Verifier(_forgets(about["config"], about["state"]))
    async with aclosing(_there_now(jetstream, {"deliver_policy": "all"})) as deliveries:
        async for delivery in deliveries:
            if not verifier.batches and not verifier.findings:
                about = await jetstream.request(f"STREAM.INFO.{AUDIT.name}")  # some may just have gone for their age
                verifier.begin(about["state"]["first_seq"], datetime.fromisoformat(about["created"]).timestamp())
            verifier.take(delivery.sequence, delivery.message.subject, delivery.message.body.encoded())
    verifier.end(last)
    return Verdict(
        whole=not verifier.findings,
        batches=verifier.batches,
        entries=verifier.entries,
        lost=verifier.lost,
        findings=verifier.findings,
        heads=list(verifier.heads.values()),
    )


def _forgets(config: dict[str, Any], state: dict[str, Any]) -> float:
    """Before when a batch may be gone without anybody's doing."""
    age, size = config.get("max_age", 0), config.get("max_bytes", 0)
    if size > 0 and state["bytes"] >= _NEARLY_FULL * size:
        return inf
    return time.time() - age / 1e9 + _SLACK if age > 0 else 0.0


def _start(wanted: Wanted, after: tuple[int, int] | None) -> dict[str, Any]:
    """Where to begin to read, in JetStream's words."""
    if after is not None:
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, after[0])}
    if wanted.since:
        since = datetime.fromtimestamp(max(0.0, wanted.since - _LATE), UTC)
        return {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
    return {"deliver_policy": "all"}


async def _there_now(jetstream: JetStream, start: dict[str, Any]) -> AsyncGenerator[Delivery]:
    """The stream's messages up to its end as it is now."""
    end = await jetstream.end_of(AUDIT)
    reader = Reader(jetstream, AUDIT, (subjects.AUDIT,), start)
    expected = await reader.open()
    try:
        while expected and reader.seen < expected:
            delivery = await anext(reader)
            yield delivery
            if delivery.sequence >= end:
                return
    finally:
        await reader.close()


def _entries(delivery: Delivery) -> list[Noted]:
    batch = read(delivery.message.body.encoded())
    if batch is None:
        return []
    return [Noted(delivery.sequence, at, batch.writer, entry) for at, entry in enumerate(batch.entries)]
