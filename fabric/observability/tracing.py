"""Tracing of the platform's processes, set up in one place.

Above: gateway and worker processes. Below: `spans`, `spans_export`. A process makes its spans cheaply, keeps them for
half a second, and sends them on. The standard variables hold: `OTEL_EXPORTER_OTLP_*`, `OTEL_BSP_*`,
`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` for what agents begin by themselves,
`OTEL_SDK_DISABLED`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote

from opentelemetry.trace import set_tracer_provider

from fabric.observability.spans import Kept, Provider
from fabric.observability.spans_export import Exporting
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.conventions import Attribute
from fabric_sdk.jetstream import JetStream
from fabric_sdk.tracing import SCOPE
from fabric_sdk.transports.base import Transport

KEPT: Final = Kept()
"""The spans of this process that wait to be sent on."""
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def disabled() -> bool:
    """Whether this process is to tell nothing."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def configure() -> None:
    """Make the fabric's provider that of this process, before an author's code could want one."""
    if not disabled():
        set_tracer_provider(Provider(SCOPE, KEPT))


@asynccontextmanager
async def exporting(transport: Transport, service: str, instance: str) -> AsyncGenerator[None]:
    """Send spans on while the process serves, and at the end what is left."""
    if disabled():
        yield
        return
    resource = about(service, instance, os.environ)
    backend = None
    if any(os.environ.get(name) for name in _ENDPOINTS):
        from fabric.observability.spans_otlp import Otlp

        backend = Otlp(resource)
    jetstream = JetStream(transport)
    export = Exporting(jetstream, KEPT, resource, backend)
    running = asyncio.create_task(export.run())
    try:
        yield
    finally:
        await end([running])
        await export.flush()
        if backend is not None:
            await backend.close()
        await jetstream.close()


def about(service: str, instance: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What is said of this process with every span: its own words, then those of the environment."""
    said = {Attribute.NAMESPACE: "agent-fabric", Attribute.SERVICE: service, Attribute.INSTANCE: instance}
    for pair in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            said[name.strip()] = unquote(value.strip())
    if name := environment.get("OTEL_SERVICE_NAME"):
        said[Attribute.SERVICE] = name
    return said
