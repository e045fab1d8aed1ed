"""Tracing of the platform's processes, set up in one place.

Above: gateway and worker processes. Below: `spans`, `spans_export`, `otel`. A process makes its spans cheaply, keeps
them for half a second, and sends them on. OpenTelemetry's standard variables hold; `OTEL_TRACES_SAMPLER` is for what
agents begin by themselves.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from opentelemetry.trace import set_tracer_provider

from fabric.observability.metrics import METRICS
from fabric.observability.otel import disabled, has_collector
from fabric.observability.spans import Kept, Provider
from fabric.observability.spans_export import Exporting
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.jetstream import JetStream
from fabric_sdk.tracing import SCOPE
from fabric_sdk.transports.base import Transport

KEPT: Final = Kept()
"""The spans of this process that wait to be sent on."""


def configure() -> None:
    """Make the fabric's provider that of this process, before an author's code could want one."""
    if not disabled():
        set_tracer_provider(Provider(SCOPE, KEPT))


@asynccontextmanager
async def exporting(transport: Transport, resource: Mapping[str, str]) -> AsyncGenerator[None]:
    """Send spans on while the process serves, and at the end what is left; `resource` is what is said of it."""
    if disabled():
        yield
        return
    stop_telling = METRICS.watch(
        "fabric_spans_dropped", "Spans that nobody took.", lambda: [((), KEPT.dropped)], kind="counter"
    )
    backend = None
    if has_collector("traces"):
        from fabric.observability.spans_otlp import Otlp

        backend = Otlp(resource)
    jetstream = JetStream(transport)
    export = Exporting(jetstream, KEPT, resource, backend)
    running = keep_on(export.run, "sending spans on")
    try:
        yield
    finally:
        await end([running])
        await export.flush()
        if backend is not None:
            await backend.close()
        await jetstream.close()
        stop_telling()
