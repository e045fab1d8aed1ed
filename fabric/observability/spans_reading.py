"""Traces out of the stream that keeps the last hour.

Above: `fabric trace`. Below: JetStream, `spans_wire`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from fabric.observability.spans_wire import Told, decode
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.streams import SPANS
from fabric_sdk.jetstream import JetStream, Reader

_LOOK_BACK: Final = (500, 4000)
"""Messages, from the end of the stream, that are looked at for what was traced lately; more, if too little was."""


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
        return (max(span.end for span in self.spans) - self.start) / 1e9

    @property
    def failures(self) -> int:
        """How many spans ended in an error."""
        return sum(span.failed for span in self.spans)


async def trace(jetstream: JetStream, trace_id: str) -> Trace | None:
    """One trace, as far as it is kept."""
    found = [span async for span in _told(jetstream, subjects.spans(trace_id), 1) if span.trace == trace_id]
    return _trace(trace_id, found) if found else None


async def recent(jetstream: JetStream, most: int) -> list[Trace]:
    """What was traced lately, the newest first."""
    end = await jetstream.end_of(SPANS)
    by_trace: defaultdict[str, list[Told]] = defaultdict(list)
    for messages in _LOOK_BACK:
        by_trace.clear()
        async for span in _told(jetstream, SPANS.subjects[0], max(1, end - messages)):
            by_trace[span.trace].append(span)
        if len(by_trace) >= most:
            break
    traces = [_trace(trace_id, spans) for trace_id, spans in by_trace.items()]
    return sorted(traces, key=lambda each: each.start, reverse=True)[:most]


async def _told(jetstream: JetStream, subject: str, first: int) -> AsyncGenerator[Told]:
    """The spans that are there now, from the message at this place on."""
    reader = Reader(jetstream, SPANS, (subject,), {"deliver_policy": "by_start_sequence", "opt_start_seq": first})
    left = await reader.open()
    try:
        while left:
            delivery = await anext(reader)
            left -= 1
            try:
                spans = decode(delivery.message.body.encoded())
            except ValueError:
                continue  # somebody else's
            for span in spans:
                yield span
    finally:
        await reader.close()


def _trace(trace_id: str, spans: list[Told]) -> Trace:
    return Trace(trace_id, tuple(sorted(spans, key=lambda span: (span.start, -span.end))))
