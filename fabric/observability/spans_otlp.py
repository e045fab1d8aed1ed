"""Spans over OTLP: OpenTelemetry's own exporter, configured by its own environment variables.

Above: `tracing`, which loads this only where an endpoint is set. Below: OpenTelemetry's SDK, which batches in a thread
of its own (`OTEL_BSP_*`) and drops what it cannot hold.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status, StatusCode

from fabric.observability.spans import Span
from fabric_sdk.contracts.scope import Trace
from fabric_sdk.tracing import context_of

_CLOSE_SECONDS: Final = 3.0
_OK: Final = Status(StatusCode.UNSET)
_FAILED: Final = Status(StatusCode.ERROR)


class Otlp:
    """A backend that speaks OTLP."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._resource = Resource.create(dict(resource))
        self._batches = BatchSpanProcessor(OTLPSpanExporter())

    def take(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self._batches.on_end(_readable(span, self._resource))

    async def close(self) -> None:
        """Send what is left, if that is quickly done."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._batches.shutdown()
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(closed.set)

        # In no thread of the loop's own, which would be waited for at the end.
        threading.Thread(target=close, name="spans end", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), _CLOSE_SECONDS)


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    """The same span as the SDK has it."""
    above = Trace(f"00-{span.trace.trace_id}-{span.parent}-01", span.trace.tracestate) if span.parent else None
    return ReadableSpan(
        span.name,
        span.get_span_context(),
        None if above is None else context_of(above),
        resource,
        span.attributes,
        [Event(each.name, each.attributes, each.at) for each in span.events],
        [Link(context_of(link)) for link in span.links],
        span.kind,
        status=_FAILED if span.failed else _OK,
        start_time=span.start,
        end_time=span.ended,
        instrumentation_scope=InstrumentationScope(span.scope),
    )
