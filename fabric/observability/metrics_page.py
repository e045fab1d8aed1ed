"""`/metrics` for Prometheus: one page for all processes under one supervisor, so that no scrape meets a random one.

Above: `fabric up`, `fabric worker`, `fabric gateway`. Below: `metrics_socket`, by which the processes are asked while
somebody waits for the page; prometheus-client, which serves and words it, as OpenMetrics with exemplars where that is
asked for. It runs in threads of its own: a supervisor's loop never waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Exemplar as Shown
from prometheus_client.registry import Collector

from fabric.observability.metrics import Exemplar, Family, Point
from fabric.observability.metrics_socket import asked, port_file
from fabric.process import State, Supervisor
from fabric_sdk.contracts.errors import ConfigurationError

_AT_ONCE: Final = 16
_LOOK_SECONDS: Final = 5.0


class Status(NamedTuple):
    """One process, as whoever runs it sees it."""

    name: str
    up: bool
    restarts: int = 0


class Page(Collector):
    """Asks all processes, and words what they say; each series says whose it is in the label `process`."""

    def __init__(self, run: Path, statuses: Callable[[], Iterable[Status]]) -> None:
        self._run = run
        self._statuses = statuses
        self._asking = ThreadPoolExecutor(_AT_ONCE, "metrics")

    def collect(self) -> Iterable[Metric]:
        """Everything as it stands now."""
        statuses = list(self._statuses())
        answers = self._asking.map(self._ask, statuses)
        by_process = {"": _of_supervisor(statuses)}
        by_process |= {status.name: families for status, families in zip(statuses, answers, strict=True)}
        return worded(by_process)

    def _ask(self, status: Status) -> list[Family]:
        try:
            said, answers = asked(port_file(self._run, status.name)), 1.0
        except TimeoutError:  # whoever runs it may not have noticed yet, and nobody runs one that is alone
            said, answers = [], 0.0
        except (OSError, ValueError):  # a broker, which tells by itself; or it starts, or is gone: `up` says so
            return []
        return [*said, _answers(answers)]


def _answers(value: float) -> Family:
    about = "Whether a process said what it counts: 0, its event loop is blocked, and what else it tells is missing."
    return Family("fabric_process_answers", "gauge", about, (), (Point((), value),))


def _of_supervisor(statuses: Sequence[Status]) -> list[Family]:
    up = tuple(Point((each.name,), float(each.up)) for each in statuses)
    restarts = tuple(Point((each.name,), each.restarts) for each in statuses)
    return [
        Family("fabric_process_up", "gauge", "Whether a process runs and passes its probe.", ("process",), up),
        Family("fabric_process_restarts", "counter", "Starts of a process after it had ended.", ("process",), restarts),
    ]


def worded(by_process: Mapping[str, Sequence[Family]]) -> Iterable[Metric]:
    """What processes said, in prometheus-client's words; that of the process `""` is labelled as it is."""
    metrics: dict[str, CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily] = {}
    for process, families in by_process.items():
        for family in families:
            if (metric := metrics.get(family.name)) is None:
                labels = [*family.labels, "process"] if process else list(family.labels)
                metric = metrics[family.name] = _KINDS[family.kind](
                    family.name, family.help, labels=labels, unit=family.unit
                )
            for point in family.points:
                _add(metric, family, point, [*point.labels, process] if process else point.labels)
    return metrics.values()


_KINDS: Final = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


def _add(
    metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily,
    family: Family,
    point: Point,
    labels: Sequence[str],
) -> None:
    if isinstance(metric, HistogramMetricFamily):
        metric.add_metric(labels, _buckets(family.bounds, point), point.value)
    else:
        metric.add_metric(labels, point.value)


def _buckets(bounds: Sequence[float], point: Point) -> list[tuple[str, float] | tuple[str, float, Shown]]:
    shown = {each.bucket: _shown(each) for each in point.exemplars}
    found: list[tuple[str, float] | tuple[str, float, Shown]] = []
    for at, (bound, count) in enumerate(zip_longest(bounds, accumulate(point.buckets))):
        edge = "+Inf" if bound is None else str(float(bound))
        found.append((edge, count, shown[at]) if at in shown else (edge, count))
    return found


def _shown(exemplar: Exemplar) -> Shown:
    return Shown({"trace_id": exemplar.trace}, exemplar.value, exemplar.at)


@contextmanager
def page_of_all(supervisor: Supervisor, run: Path, host: str, port: int | None) -> Generator[int]:
    """Serve the page of all that a supervisor runs; nothing for no port."""
    if port is None:
        yield 0
        return
    loop = asyncio.get_running_loop()

    async def look() -> list[Status]:
        return [Status(each.name, each.state is State.READY, each.restarts) for each in supervisor.statistics()]

    def statuses() -> list[Status]:
        return asyncio.run_coroutine_threadsafe(look(), loop).result(_LOOK_SECONDS)

    with served(host, port, Page(run, statuses)) as found:
        yield found


@contextmanager
def page_of_one(name: str, host: str, port: int | None) -> Generator[Path | None]:
    """Serve the page of this process alone; gives the file by which it says where it answers. Nothing for no port."""
    if port is None:
        yield None
        return
    with TemporaryDirectory(prefix="agent-fabric-metrics-") as folder:
        run = Path(folder)
        with served(host, port, Page(run, lambda: [Status(name, up=True)])):
            yield port_file(run, name)


@contextmanager
def served(host: str, port: int, collector: Collector) -> Generator[int]:
    """Serve the page until the block ends; gives the port, which is any free one for 0.

    Raises:
        ConfigurationError: the port is taken, or the host is not of this machine.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as taken:
        raise ConfigurationError(
            f"/metrics cannot be served at {host}:{port}: {taken.strerror or taken}",
            fix="give FABRIC_METRICS_PORT another port, and FABRIC_METRICS_HOST an address of this machine",
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
