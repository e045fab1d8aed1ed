"""What was counted, sent to an OpenTelemetry collector where the environment names one.

Above: `metrics_process`. Below: `metrics`, OpenTelemetry's exporter. Our tally is handed over as it is, in the SDK's
own types: its instruments would cost each call thirty times as much (ADR 20).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from fabric.observability.metrics import Exemplar, Family, Metrics, Point
from fabric.observability.otel import interval

if TYPE_CHECKING:  # a second of imports, for those alone who send
    from opentelemetry.sdk.metrics import Exemplar as Sent
    from opentelemetry.sdk.metrics import export

log = logging.getLogger(__name__)

_UNITS: Final = {"seconds": "s", "bytes": "By"}
_NANO: Final = 1_000_000_000


async def push(metrics: Metrics, resource: Mapping[str, str]) -> None:
    """Send everything again and again until cancelled; what cannot be sent now is in what is sent next.

    `resource` is what is said of this process.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter, began = OTLPMetricExporter(), time.time_ns()
    send = cast("Callable[[export.MetricsData], object]", exporter.export)  # pyright: ignore[reportUnknownMemberType] - its **kwargs
    try:
        while True:
            await asyncio.sleep(interval())
            data = in_otel_words(await metrics.collect(), resource, began)
            await asyncio.to_thread(send, data)
    finally:
        exporter.shutdown()  # pyright: ignore[reportUnknownMemberType] - **kwargs


def in_otel_words(families: Iterable[Family], about: Mapping[str, str], began: int) -> export.MetricsData:
    """What was counted since `began`, in nanoseconds of Unix time, as OpenTelemetry's exporters take it."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    resource = Resource.create(dict(about))
    now = time.time_ns()
    metrics = [_metric(family, began, now) for family in families]
    scope = ScopeMetrics(InstrumentationScope("fabric"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, began: int, now: int) -> export.Metric:
    from opentelemetry.sdk.metrics import export

    unit = _UNITS.get(family.unit, "1")
    if family.kind == "histogram":
        observed = [_observed(family, point, began, now) for point in family.points]
        histogram = export.Histogram(observed, export.AggregationTemporality.CUMULATIVE)
        return export.Metric(family.name, family.help, unit, histogram)
    numbers = [export.NumberDataPoint(_labels(family, point), began, now, point.value) for point in family.points]
    if family.kind == "counter":
        total = export.Sum(numbers, export.AggregationTemporality.CUMULATIVE, is_monotonic=True)
        return export.Metric(family.name, family.help, unit, total)
    return export.Metric(family.name, family.help, unit, export.Gauge(numbers))


def _observed(family: Family, point: Point, began: int, now: int) -> export.HistogramDataPoint:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    filled = [at for at, count in enumerate(point.buckets) if count]
    edges: Sequence[float] = (0.0, *family.bounds, family.bounds[-1])
    least, most = (edges[filled[0]], edges[filled[-1] + 1]) if filled else (0.0, 0.0)  # as far as buckets tell
    return HistogramDataPoint(
        _labels(family, point),
        began,
        now,
        sum(point.buckets),
        point.value,
        point.buckets,
        family.bounds,
        least,
        most,
        [_exemplar(each) for each in point.exemplars],
    )


def _exemplar(exemplar: Exemplar) -> Sent:
    from opentelemetry.sdk.metrics import Exemplar as Sent

    return Sent({}, exemplar.value, int(exemplar.at * _NANO), 0, int(exemplar.trace, 16))


def _labels(family: Family, point: Point) -> dict[str, str]:
    return dict(zip(family.labels, point.labels, strict=True))
