"""Spans as the platform keeps them: OpenTelemetry's API over a few fields, five times cheaper than its SDK.

Above: `tracing`, which makes this the process's provider, and `spans_export`. Below: OpenTelemetry's API. Only what is
sampled gets here. The spans of other libraries are the SDK's; they are kept beside ours, in the same form.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from time import time_ns
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from fabric_sdk import tracing
from fabric_sdk.contracts.scope import Trace
from fabric_sdk.tracing import TravellingProvider, TravellingSpan, context_of, travelling

_MOST: Final = 4096
"""Spans that wait to be exported; further ones are dropped, and counted."""
_MOST_EVENTS: Final = 128


class Kept:
    """The spans that ended and wait to be exported."""

    def __init__(self, most: int = _MOST) -> None:
        self.dropped = 0
        """How many there was no room for, or nobody to take them."""
        self._most = most
        self._spans: deque[Span] = deque()

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, span: Span) -> None:
        """Keep a span that has ended; from any thread."""
        if len(self._spans) < self._most:
            self._spans.append(span)
        else:
            self.dropped += 1

    def take(self) -> list[Span]:
        """All that wait, which are no longer kept here."""
        return [self._spans.popleft() for _ in range(len(self._spans))]


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of a span."""

    name: str
    at: int
    """Unix time in nanoseconds."""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])


class Span(TravellingSpan):
    """Something that takes time, until it ends; then it is kept."""

    def __init__(
        self,
        kept: Kept,
        scope: str,
        name: str,
        trace: Trace,
        parent: str,
        kind: SpanKind,
        start: int,
        attributes: dict[str, AttributeValue],
    ) -> None:
        self._kept = kept
        self.scope = scope
        """Which library tells of it."""
        self.name = name
        self.trace = trace
        self.parent = parent
        """The id of the span above; empty for the first of all."""
        self.kind = kind
        self.start = start
        """Unix time in nanoseconds."""
        self.ended = 0
        self.failed = False
        self.attributes = attributes
        self.events: list[Happened] = []
        self.links: list[Trace] = []

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return self.trace.span_id

    def end(self, end_time: int | None = None) -> None:
        if not self.ended:
            self.ended = end_time or time_ns()
            self._kept.add(self)

    def get_span_context(self) -> SpanContext:
        return context_of(self.trace)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.attributes.update(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if len(self.events) < _MOST_EVENTS:
            self.events.append(Happened(name, timestamp or time_ns(), attributes or {}))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self.links.append(travelling(context))

    def update_name(self, name: str) -> None:
        self.name = name

    def is_recording(self) -> bool:
        return not self.ended

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """An error or none; its words are not kept, since they may quote what was asked."""
        code = status.status_code if isinstance(status, Status) else status
        self.failed = code is StatusCode.ERROR

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Its kind alone, for the same reason."""
        self.add_event("exception", {"exception.type": type(exception).__name__}, timestamp)


class Tracer(trace.Tracer):
    """Begins spans of one library. Whoever asks has decided that it is sampled."""

    def __init__(self, kept: Kept, scope: str) -> None:
        self._kept = kept
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        above = tracing.trace_of(trace.get_current_span(context), None)
        span = self.begin(name, kind, above, attributes or {}, start=start_time)
        for link in links or ():
            span.add_link(link.context)
        return span

    def begin(
        self,
        name: str,
        kind: SpanKind,
        above: Trace | None,
        attributes: Mapping[str, AttributeValue],
        linked: bool = False,
        start: int | None = None,
    ) -> trace.Span:
        """The same for what is above as it came; see `fabric_sdk.tracing.begin`."""
        if above is None:
            trace_id, parent, state = f"{getrandbits(128) or 1:032x}", "", ""
        elif not above.sampled:
            return trace.NonRecordingSpan(context_of(above))
        else:
            trace_id, parent, state = above.trace_id, above.span_id, above.tracestate
        own = Trace(f"00-{trace_id}-{getrandbits(64) or 1:016x}-01", state)
        span = Span(self._kept, self._scope, name, own, parent, kind, start or time_ns(), dict(attributes))
        if linked and above is not None:
            span.links.append(above)
        return span

    def start_as_current_span(self, *arguments: Any, end_on_exit: bool = True, **named: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - as OpenTelemetry's own proxy declares it
        return trace.use_span(self.start_span(*arguments, **named), end_on_exit)


class Provider(TravellingProvider):
    """Our own spans, and the SDK's for every other library, which is not loaded before there is one."""

    def __init__(self, own: str, kept: Kept) -> None:
        self.kept = kept
        self._own = Tracer(kept, own)
        self.begin = self._own.begin
        self._name = own
        self._others: trace.TracerProvider | None = None
        self._making = threading.Lock()

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        if instrumenting_module_name == self._name:
            return self._own
        with self._making:
            if self._others is None:
                from fabric.observability.spans_foreign import provider

                self._others = provider(self.kept)
        return self._others.get_tracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
