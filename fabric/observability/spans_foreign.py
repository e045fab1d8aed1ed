"""Spans of other libraries: OpenTelemetry's SDK makes them, and they are kept in our form.

Above: `spans`, which loads this once a library wants a tracer. Below: OpenTelemetry's SDK. They join a trace that is
sampled and begin none of their own, unless `OTEL_TRACES_SAMPLER` says otherwise. What an exception said is left out.
"""

from __future__ import annotations

import os
from typing import Final

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import StatusCode

from fabric.observability.spans import Happened, Kept, Span
from fabric_sdk.tracing import travelling

_WORDS: Final = ("exception.message", "exception.stacktrace")
"""What an exception said, and where: it may quote arguments."""


def provider(kept: Kept) -> TracerProvider:
    """One whose spans come to `kept`."""
    sampler = None if os.environ.get(OTEL_TRACES_SAMPLER) else ParentBased(ALWAYS_OFF)
    # What they belong to is said when they are exported, in the same words as of ours.
    made = TracerProvider(sampler, Resource.get_empty(), shutdown_on_exit=False)
    made.add_span_processor(_Keeping(kept))
    return made


class _Keeping(SpanProcessor):
    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def on_end(self, span: ReadableSpan) -> None:
        context, scope = span.get_span_context(), span.instrumentation_scope
        if context is None:
            return
        own = Span(
            self._kept,
            scope.name if scope else "",
            span.name,
            travelling(context),
            f"{span.parent.span_id:016x}" if span.parent else "",
            span.kind,
            span.start_time or 0,
            dict(span.attributes or {}),
        )
        own.links = [travelling(link.context) for link in span.links]
        own.failed = span.status.status_code is StatusCode.ERROR
        for event in span.events:
            said = {name: value for name, value in (event.attributes or {}).items() if name not in _WORDS}
            own.events.append(Happened(event.name, event.timestamp, said))
        own.end(span.end_time)
