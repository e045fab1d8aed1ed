"""What OpenTelemetry's standard variables say of this process, for its spans and its metrics alike.

Above: `tracing`, `metrics_process`. Below: the environment. What its exporters read by themselves (`OTEL_BSP_*`,
`OTEL_EXPORTER_OTLP_HEADERS`, …) is their affair.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import unquote

from fabric_sdk.contracts.conventions import Attribute

_USUAL_MILLISECONDS: Final = 60_000.0


def disabled() -> bool:
    """Whether this process is to tell nothing."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def has_collector(signal: Literal["traces", "metrics"]) -> bool:
    """Whether a collector is named for what this is, and is to be told."""
    endpoints = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    return not disabled() and any(os.environ.get(name) for name in endpoints)


def interval() -> float:
    """Seconds from one sending of metrics to the next."""
    try:
        return max(0.1, float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", _USUAL_MILLISECONDS)) / 1000)
    except ValueError:
        return _USUAL_MILLISECONDS / 1000


def about(service: str, instance: str) -> Mapping[str, str]:
    """What is said of this process with all that it tells: its own words, then those of the environment."""
    said = {Attribute.NAMESPACE: "agent-fabric", Attribute.SERVICE: service, Attribute.INSTANCE: instance}
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            said[name.strip()] = unquote(value.strip())
    if name := os.environ.get("OTEL_SERVICE_NAME"):
        said[Attribute.SERVICE] = name
    return said
