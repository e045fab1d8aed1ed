"""What a process counts, by itself: series, their bounds, and the words they are told in. Proves: OP-2, OP-3."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families,  # pyright: ignore[reportUnknownVariableType] - untyped
)
from prometheus_client.registry import Collector, CollectorRegistry

from fabric.observability import metrics_socket
from fabric.observability.metrics import MOST, OTHER, SECONDS, Family, Metrics, Point
from fabric.observability.metrics_calls import OK, Calls, outcome_of
from fabric.observability.metrics_otlp import in_otel_words
from fabric.observability.metrics_page import Page, Status, worded
from fabric.observability.metrics_socket import answering, asked, port_file
from fabric.observability.metrics_summary import quantile, rows
from fabric.observability.metrics_summary import read as summary
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.scope import Trace

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = Trace(f"00-{TRACE}-b7ad6b7169203331-01")
UNSAMPLED = Trace(f"00-{TRACE}-b7ad6b7169203331-00")


class Given(Collector):
    """A page of what was said."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def page(**said: list[Family]) -> str:
    """What Prometheus reads when processes said this."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given(worded(said)))
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    return encode(registry).decode()


def read(text: str) -> dict[str, Metric]:
    """The page, as the reference parser has it; it refuses what is no OpenMetrics."""
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_an_observation_is_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Metrics().histogram("h_seconds", "").of()
    for value in values:
        histogram.record(value)
    for at, bound in enumerate(SECONDS):
        assert sum(histogram.buckets[: at + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.buckets) == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_series_are_bounded_and_what_is_beyond_is_counted_together() -> None:
    counter = Metrics().counter("c", "", ("name",))
    for number in range(MOST + 10):
        counter.of(str(number)).add()
    counted = dict(counter.items())
    assert len(counted) == MOST + 1
    assert counted[(OTHER,)].value == 10


async def test_calls_are_bounded_and_still_say_how_they_ended() -> None:
    metrics = Metrics()
    calls = Calls(metrics, "call", "here to there", ("tool",))
    for number in range(MOST + 10):
        calls.of(str(number)).ended(0.0, "handler_failed" if number % 2 else OK)
    (outcomes,) = [family for family in await metrics.collect() if family.name == "calls"]
    others = {tuple(point.labels): point.value for point in outcomes.points if point.labels[0] == OTHER}
    assert others == {(OTHER, OK): 5, (OTHER, "handler_failed"): 5}
    (seconds,) = [family for family in await metrics.collect() if family.kind == "histogram"]
    assert len(seconds.points) == MOST + 1


async def test_only_a_sampled_trace_becomes_an_exemplar() -> None:
    metrics = Metrics()
    calls = Calls(metrics, "call", "here to there", ("tool",))
    calls.of("plain").ended(0.0, OK, UNSAMPLED)
    calls.of("shown").ended(0.0, OK, SAMPLED)
    buckets = read(page(a=await metrics.collect()))["call_duration_seconds"].samples
    shown = {sample.labels["tool"]: sample.exemplar for sample in buckets if sample.exemplar}
    assert list(shown) == ["shown"]
    assert shown["shown"]
    assert shown["shown"].labels == {"trace_id": TRACE}


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (errors.DeadlineExceeded(), "deadline_exceeded"),
        (errors.WorkerLost(), "worker_lost"),
        (asyncio.CancelledError(), "cancelled"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_an_outcome_is_the_name_of_the_error(failure: BaseException, outcome: str) -> None:
    assert outcome_of(failure) == outcome


async def test_what_fails_to_answer_leaves_the_rest() -> None:
    metrics = Metrics()
    metrics.counter("there", "").of().add()

    async def broken() -> list[Family]:
        raise errors.TransportUnavailable

    stop = metrics.ask(broken)
    assert [family.name for family in await metrics.collect()] == ["there"]
    stop()


async def test_what_is_no_longer_watched_is_no_longer_told() -> None:
    metrics = Metrics()
    stop = metrics.watch("g", "", lambda: [((), 1.0)])
    assert [family.name for family in await metrics.collect()] == ["g"]
    stop()
    assert await metrics.collect() == []


async def test_a_process_is_asked_over_a_port_that_a_file_names(tmp_path: Path) -> None:
    metrics, file = Metrics(), tmp_path / "me.metrics"
    metrics.histogram("h_seconds", "").of().record(0.3, TRACE)
    async with answering(metrics, file):
        families = await asyncio.to_thread(asked, file)
    assert families == await metrics.collect()
    assert not file.exists()


def test_several_processes_are_on_one_page_and_each_series_says_whose_it_is() -> None:
    one = [Family("calls", "counter", "Calls.", ("agent",), (Point(("hello",), 1),))]
    two = [Family("calls", "counter", "Calls.", ("agent",), (Point(("hello",), 2),))]
    samples = read(page(first=one, second=two))["calls"].samples
    assert {(sample.labels["process"], sample.value) for sample in samples} == {("first", 1.0), ("second", 2.0)}


async def test_what_opentelemetry_is_sent_is_the_same() -> None:
    metrics = Metrics()
    metrics.counter("calls", "Calls.", ("agent",)).of("hello").add(3)
    metrics.histogram("h_seconds", "").of().record(0.3, TRACE)
    metrics.watch("g_bytes", "", lambda: [((), 7.0)], unit="bytes")
    (resource,) = in_otel_words(await metrics.collect(), {"service.name": "hello"}, began=1).resource_metrics
    assert resource.resource.attributes["service.name"] == "hello"
    counter, histogram, gauge = resource.scope_metrics[0].metrics
    assert (counter.name, counter.data.data_points[0].attributes) == ("calls", {"agent": "hello"})
    assert (gauge.name, gauge.unit) == ("g_bytes", "By")
    (point,) = histogram.data.data_points
    assert histogram.unit == "s"
    assert isinstance(point, HistogramDataPoint)
    assert (point.count, point.sum, point.min, point.max) == (1, 0.3, 0.2, 0.5)
    assert point.bucket_counts[SECONDS.index(0.5)] == 1
    assert point.exemplars[0].trace_id == int(TRACE, 16)


def test_a_quantile_is_what_prometheus_makes_of_the_buckets() -> None:
    buckets = [0] * (len(SECONDS) + 1)
    assert quantile(buckets, 0.5) is None
    buckets[SECONDS.index(0.2)] = 10
    assert quantile(buckets, 0.5) == pytest.approx(0.15)
    buckets[-1] = 1000
    assert quantile(buckets, 0.95) == SECONDS[-1]


def _worked(calls: int, errors: int) -> list[Family]:
    labels = ("agent", "kind", "method", "tool", "outcome")
    points = (Point(("hello", "call", "m", "t", "ok"), calls), Point(("hello", "call", "m", "t", "internal"), errors))
    return [Family("fabric_worker_calls", "counter", "", labels, points)]


def test_rates_are_summed_over_processes_and_one_that_began_anew_counts_from_nothing() -> None:
    before = {"a": summary(_worked(100, 0)), "b": summary(_worked(500, 9))}
    after = {"a": summary(_worked(120, 2)), "b": summary(_worked(10, 0)), "c": summary(_worked(4, 0))}
    (row,) = rows(before, after, 2.0)
    assert (row.calls_per_second, row.errors_per_second) == ((22 + 10 + 4) / 2, 1.0)


async def test_a_process_whose_loop_is_blocked_is_told_as_one_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_socket, "_ANSWER_SECONDS", 0.1)
    metrics = Metrics()
    metrics.counter("fabric_x", "It.").of().add()
    page = Page(tmp_path, lambda: [Status(name, up=True) for name in ("well", "blocked", "gone", "broker")])
    with socket.create_server(("127.0.0.1", 0)) as blocked, socket.create_server(("127.0.0.1", 0)) as gone:
        port_file(tmp_path, "blocked").write_text(str(blocked.getsockname()[1]))
        port_file(tmp_path, "gone").write_text(str(gone.getsockname()[1]))
        gone.close()
        async with answering(metrics, port_file(tmp_path, "well")):
            found = {metric.name: metric for metric in await asyncio.to_thread(lambda: list(page.collect()))}
    assert {sample.labels["process"]: sample.value for sample in found["fabric_process_answers"].samples} == {
        "well": 1.0,
        "blocked": 0.0,
    }
    assert [sample.labels for sample in found["fabric_x"].samples] == [{"process": "well"}]


def test_a_group_of_subscribers_is_no_agent_though_it_is_called_as_one() -> None:
    points = tuple(Point(labels, 7) for labels in (("hello", "events"), ("hello", "due"), ("zoe", "normal")))
    told = {"a": summary([Family("fabric_queue_waiting", "gauge", "", ("agent", "queue"), points)])}
    found = [(row.agent, row.group, row.backlog) for row in rows({}, told, 1.0)]
    assert found == [("hello", False, 7), ("zoe", False, 7), ("hello", True, 7)]
