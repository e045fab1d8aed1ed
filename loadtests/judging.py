"""What a run comes to: figures for each class, what of it misses its target, and whether a line only ever goes up.

Above: `run`, tests. Below: nothing: pure functions of what was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_SETTLED: Final = 0.25
"""The first part of a soak says nothing: caches fill, pools grow."""
_CLEARLY: Final = 0.8
"""Correlation with time from which on a line goes up, and does not merely end higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One class of requests in one phase; times in milliseconds."""

    requests: int
    errors: int
    rate: float
    """Good answers a second."""
    p50: float
    p95: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a phase has to reach, all classes together."""

    rate: float = 0.0
    p95: float = float("inf")
    errors: float = 0.0
    """The part of all requests that may fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """How a figure of one process went, from when it had settled."""

    growth: float
    """From one end of the line through all of it to the other."""
    correlation: float
    middle: float

    def is_up(self, *, least: float, part: float) -> bool:
        """Whether it clearly grows: more than `least`, and than this `part` of what it usually is."""
        return self.correlation > _CLEARLY and self.growth > max(least, part * self.middle)


def read(entries: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Figures]:
    """The figures of each class in locust's own list, and of `all` together."""
    found: dict[str, Figures] = {}
    everything: dict[float, int] = {}
    requests = errors = 0
    for entry in entries:
        times = {float(ms): int(count) for ms, count in entry["response_times"].items()}
        asked, failed = int(entry["num_requests"]), int(entry["num_failures"])
        found[f"{entry['method']}.{entry['name']}"] = figures(times, asked, failed, seconds)
        requests, errors = requests + asked, errors + failed
        for ms, count in times.items():
            everything[ms] = everything.get(ms, 0) + count
    return found | {"all": figures(everything, requests, errors, seconds)}


def figures(times: Mapping[float, int], requests: int, errors: int, seconds: float) -> Figures:
    """What so many requests come to, by how many took how long."""
    p50, p95, p99 = (percentile(times, part) for part in (0.50, 0.95, 0.99))
    rate = (requests - errors) / seconds if seconds > 0 else 0.0
    longest = max(times, default=0.0)
    return Figures(requests=requests, errors=errors, rate=round(rate, 1), p50=p50, p95=p95, p99=p99, longest=longest)


def percentile(times: Mapping[float, int], part: float) -> float:
    """The time that this part of all requests did not exceed; 0 of none."""
    left = part * sum(times.values())
    for ms in sorted(times):
        left -= times[ms]
        if left <= 0:
            return ms
    return 0.0


def misses(phase: str, found: Figures, target: Target) -> list[str]:
    """What is not as it has to be, in words."""
    said: list[str] = []
    if found.rate < target.rate:
        said.append(f"{phase}: {found.rate:.0f} requests/s, not {target.rate:.0f}")
    if found.p95 > target.p95:
        said.append(f"{phase}: p95 {found.p95:g} ms, not {target.p95:g}")
    if found.requests == 0 or found.errors > target.errors * found.requests:
        said.append(f"{phase}: {found.errors} errors of {found.requests}, at most {target.errors:.1%} may be")
    return said


def trend(samples: Sequence[tuple[float, float]]) -> Trend:
    """How a figure went: (seconds, figure), oldest first."""
    settled = samples[int(len(samples) * _SETTLED) :]
    times, values = [at for at, _ in settled], [value for _, value in settled]
    if len(settled) < 3 or len(set(values)) == 1:
        return Trend(growth=0.0, correlation=0.0, middle=statistics.median(values) if values else 0.0)
    slope = statistics.linear_regression(times, values).slope
    return Trend(
        growth=slope * (times[-1] - times[0]),
        correlation=statistics.correlation(times, values),
        middle=statistics.median(values),
    )
