"""Traces out of the stream that keeps the last hour.

Above: `fabric trace`. Below: JetStream, `spans_wire`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from fabric.observability.spans_export import FLUSH_SECONDS
from fabric.observability.spans_wire import Told, decode
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.streams import SPANS
from fabric_sdk.jetstream import JetStream, Reader

_LOOK_BACK: Final = 256
"""Messages, from the end of the stream, that are looked at first for what was traced lately."""
_FURTHER: Final = 8
"""How many times as many are looked at, where those had too few traces."""
_TOLD_SECONDS: Final = 2 * FLUSH_SECONDS
"""After which every process has told of what ended, also one that is late."""


@dataclass(frozen=True, slots=True)
class Trace:
    """All spans of one trace that are kept, the earliest first."""

    id: str
    spans: tuple[Told, ...]

    @property
    def root(self) -> Told:
        """The first span that none of the others is above."""
        ids = {span.id for span in self.spans}
        return next((span for span in self.spans if span.parent not in ids), self.spans[0])

    @property
    def start(self) -> int:
        """When it began: nanoseconds of Unix time."""
        return self.spans[0].start

    @property
    def seconds(self) -> float:
        """From the first beginning to the last end."""
        return (_end(self) - self.start) / 1e9

    @property
    def failures(self) -> int:
        """How many spans ended in an error."""
        return sum(span.failed for span in self.spans)


async def trace(jetstream: JetStream, trace_id: str) -> Trace | None:
    """One trace, as far as it is kept, once every process has told what it knows of it."""
    found = await _kept(jetstream, trace_id)
    if found is not None and (early := _early(found)):
        await asyncio.sleep(early)
        found = await _kept(jetstream, trace_id)
    return found


async def recent(jetstream: JetStream, most: int) -> list[Trace]:
    """What was traced lately, the newest first, once every process has told what it knows of these."""
    found = await _recent(jetstream, most)
    if found and (early := _early(max(found, key=_end))):
        await asyncio.sleep(early)
        found = await _recent(jetstream, most, found[0].start)  # of what began meanwhile, half is not told yet
    return found


async def beginning(jetstream: JetStream, digits: str) -> list[str]:
    """The ids of all traces kept that begin so, the newest first."""
    begun: dict[str, int] = {}
    async for span in _told(jetstream, SPANS.subjects[0], 1, digits):
        if span.trace.startswith(digits):
            begun[span.trace] = min(span.start, begun.get(span.trace, span.start))
    return sorted(begun, key=lambda trace_id: begun[trace_id], reverse=True)


async def _kept(jetstream: JetStream, trace_id: str) -> Trace | None:
    spans = [span async for span in _told(jetstream, subjects.spans(trace_id), 1, trace_id) if span.trace == trace_id]
    return _trace(trace_id, spans) if spans else None


async def _recent(jetstream: JetStream, most: int, until: int | None = None) -> list[Trace]:
    """The newest of those that began by `until`, in nanoseconds of Unix time.

    Looks at twice as many as are wanted: of the oldest in the messages looked at, a part lies before these.
    """
    end, back = await jetstream.end_of(SPANS), _LOOK_BACK
    while True:
        first = max(1, end - back)
        by_trace: defaultdict[str, list[Told]] = defaultdict(list)
        async for span in _told(jetstream, SPANS.subjects[0], first):
            by_trace[span.trace].append(span)
        traces = [_trace(trace_id, spans) for trace_id, spans in by_trace.items()]
        traces = [each for each in traces if until is None or each.start <= until]
        if first == 1 or len(traces) >= 2 * most:
            return sorted(traces, key=lambda each: each.start, reverse=True)[:most]
        back *= _FURTHER


async def _told(jetstream: JetStream, subject: str, first: int, of: str = "") -> AsyncGenerator[Told]:
    """The spans that are there now, from the message at this place on; not those of messages without this text."""
    reader = Reader(jetstream, SPANS, (subject,), {"deliver_policy": "by_start_sequence", "opt_start_seq": first})
    left, text = await reader.open(), of.encode()
    try:
        while left:
            delivery = await anext(reader)
            left = min(left - 1, delivery.pending)  # some may have gone meanwhile, as the oldest do
            encoded = delivery.message.body.encoded()
            if text not in encoded:
                continue
            try:
                spans = decode(encoded)
            except ValueError:
                continue  # somebody else's
            for span in spans:
                yield span
    finally:
        await reader.close()


def _early(found: Trace) -> float:
    """Seconds until all that is known of it can be read; by the clock of another machine perhaps."""
    return max(0.0, min(_TOLD_SECONDS, _TOLD_SECONDS - (time.time_ns() - _end(found)) / 1e9))


def _end(found: Trace) -> int:
    return max(span.end for span in found.spans)


def _trace(trace_id: str, spans: list[Told]) -> Trace:
    return Trace(trace_id, tuple(sorted(spans, key=lambda span: (span.start, -span.end))))
