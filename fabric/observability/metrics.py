"""What one process counts: a tally small enough for the path of every call (ADR 20).

Above: whatever counts; `metrics_socket`, `metrics_page`, `metrics_otlp`, which tell. Below: nothing. A call costs one
look into a dict and one bisection; all else is done when somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, Generic, Literal, TypeVar

from msgspec import Struct

log = logging.getLogger(__name__)

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of what takes time."""
BYTES: Final = (128.0, 512.0, 2048.0, 8192.0, 32768.0, 131072.0, 524288.0, 2097152.0, 8388608.0)
"""Bounds of what takes room."""
MOST: Final = 500
"""Series of one family, unless it says otherwise; whatever comes beyond them is counted together."""
OTHER: Final = "other"
"""What the labels of those say."""

_COLLECT_SECONDS: Final = 1.0

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]
T = TypeVar("T", "Count", "Histogram")


class Exemplar(Struct, array_like=True, frozen=True):
    """One observation of a bucket, and the trace that it was made in."""

    bucket: int
    trace: str
    value: float
    at: float
    """Unix time in seconds."""


class Point(Struct, array_like=True, frozen=True):
    """One series of a family at one moment."""

    labels: tuple[str, ...]
    value: float
    """Of a histogram: the sum of all observations."""
    buckets: tuple[int, ...] = ()
    """Of a histogram: how many observations each bucket has by itself, the last one beyond all bounds."""
    exemplars: tuple[Exemplar, ...] = ()


class Family(Struct, frozen=True):
    """All series of one name at one moment: what is told of it, in whatever form."""

    name: str
    """As Prometheus has it, with its unit; without `_total`."""
    kind: Kind
    help: str
    labels: tuple[str, ...]
    points: tuple[Point, ...]
    unit: str = ""
    bounds: tuple[float, ...] = ()


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, more: float = 1) -> None:
        """Count so many more."""
        self.value += more


class Histogram:
    """Observations, counted by size."""

    __slots__ = ("_bounds", "buckets", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def record(self, value: float, trace: str | None = None) -> None:
        """Count one observation; `trace` is the id of a sampled trace that shows it."""
        bucket = bisect_left(self._bounds, value)
        self.buckets[bucket] += 1
        self.total += value
        if trace is not None:
            self.exemplars[bucket] = Exemplar(bucket, trace, value, time.time())


class Series(Generic[T]):
    """The series of one family, by the values of their labels."""

    def __init__(self, about: Family, make: Callable[[], T], most: int = MOST) -> None:
        self.about = about
        self._make = make
        self._most = most
        self._series: dict[Labels, T] = {}

    def of(self, *labels: str) -> T:
        """The series with these labels; beyond as many as there may be, the one of all others."""
        return self._series.get(labels) or self._new(labels)

    def _new(self, labels: Labels) -> T:
        if len(self._series) >= self._most:
            labels = (OTHER,) * len(labels)
        return self._series.setdefault(labels, self._make())

    def items(self) -> list[tuple[Labels, T]]:
        """All there are now."""
        return list(self._series.items())


Reading = Iterable[tuple[Labels, float]]
"""What a gauge shows: a number for each set of labels."""
Asking = Callable[[], Awaitable[Iterable[Family]]]


class Metrics:
    """All that a process counts."""

    def __init__(self) -> None:
        self._counters: list[Series[Count]] = []
        self._histograms: list[Series[Histogram]] = []
        self._gauges: dict[object, tuple[Family, Callable[[], Reading]]] = {}
        self._asked: dict[object, Asking] = {}

    def counter(self, name: str, help: str, labels: Labels = (), *, most: int = MOST) -> Series[Count]:
        """Numbers that only grow."""
        series = Series(Family(name, "counter", help, labels, ()), Count, most)
        self._counters.append(series)
        return series

    def histogram(
        self,
        name: str,
        help: str,
        labels: Labels = (),
        *,
        unit: str = "seconds",
        bounds: tuple[float, ...] = SECONDS,
        most: int = MOST,
    ) -> Series[Histogram]:
        """Observations by size."""
        about = Family(name, "histogram", help, labels, (), unit, bounds)
        series = Series(about, lambda: Histogram(bounds), most)
        self._histograms.append(series)
        return series

    def watch(
        self,
        name: str,
        help: str,
        read: Callable[[], Reading],
        *,
        labels: Labels = (),
        unit: str = "",
        kind: Literal["counter", "gauge"] = "gauge",
    ) -> Callable[[], object]:
        """Read a number whenever somebody asks, until what this returns is called."""
        key = object()
        self._gauges[key] = Family(name, kind, help, labels, (), unit), read
        return partial(self._gauges.pop, key)

    def ask(self, collect: Asking) -> Callable[[], object]:
        """Have somebody outside asked whenever we are, until what this returns is called."""
        key = object()
        self._asked[key] = collect
        return partial(self._asked.pop, key)

    async def collect(self) -> list[Family]:
        """Everything as it stands now; what does not answer in time is left out."""
        answers = await asyncio.gather(*(_answer(each) for each in list(self._asked.values())))
        return merged([*self._here(), *(family for answer in answers for family in answer)])

    def _here(self) -> Iterable[Family]:
        for counter in self._counters:
            yield _with(counter.about, [Point(labels, each.value) for labels, each in counter.items()])
        for histogram in self._histograms:
            yield _with(histogram.about, [_point(labels, each) for labels, each in histogram.items()])
        for about, read in list(self._gauges.values()):
            yield _with(about, [Point(labels, value) for labels, value in read()])


METRICS: Final = Metrics()
"""Those of this process: like its log, there is one."""


def merged(families: Iterable[Family]) -> list[Family]:
    """One family for each name: several parts of a process may have something to say under it."""
    found: dict[str, Family] = {}
    for family in families:
        known = found.get(family.name)
        found[family.name] = _with(family, [*(known.points if known else ()), *family.points])
    return list(found.values())


async def _answer(asking: Asking) -> Iterable[Family]:
    try:
        async with asyncio.timeout(_COLLECT_SECONDS):
            return await asking()
    except Exception as failure:  # whatever it is: the rest is told all the same
        log.debug("a part of the metrics is missing: %s", failure, exc_info=True)
        return ()


def _with(about: Family, points: Iterable[Point]) -> Family:
    return Family(about.name, about.kind, about.help, about.labels, tuple(points), about.unit, about.bounds)


def _point(labels: Labels, histogram: Histogram) -> Point:
    return Point(labels, histogram.total, tuple(histogram.buckets), tuple(histogram.exemplars.values()))
