"""What all processes counted, put together for each agent: what a person looks at first.

Above: `fabric top`. Below: `metrics`. Pure: two readings and the seconds between them make one picture.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from fabric.observability.metrics import SECONDS, Family, Point
from fabric.observability.metrics_calls import OK
from fabric.observability.metrics_kept import EVENTS_QUEUE


@dataclass(slots=True)
class Reading:
    """One process at one moment, by agent."""

    calls: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    buckets: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    gauges: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    """In hand, instances, backlog and dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One agent, or one group of subscribers, between two moments."""

    agent: str
    """Its name; with an @ before it, a capability's, which has a queue of its own."""
    group: bool
    """Whether it is a group of subscribers: of it, nothing but the backlog of events is counted."""
    instances: int
    calls_per_second: float
    p50_seconds: float | None
    p95_seconds: float | None
    errors_per_second: float
    running: int
    waiting: int
    backlog: int
    dead_letters: int


_GROUP = "events/"
"""Before the names of groups, which may be called as agents are."""
_SHARED = {"fabric_leases": "instances", "fabric_queue_waiting": "backlog", "fabric_dead_letters": "dead_letters"}
"""What several processes tell alike: the largest holds."""


def read(families: Iterable[Family]) -> Reading:
    """What one process said."""
    reading = Reading()
    for family in families:
        for point in family.points:
            _take(reading, family.name, dict(zip(family.labels, point.labels, strict=True)), point)
    return reading


def _take(reading: Reading, name: str, labels: Mapping[str, str], point: Point) -> None:
    agent = labels.get("agent", "") if labels.get("queue") != EVENTS_QUEUE else _GROUP + labels["agent"]
    if name == "fabric_worker_calls":
        reading.calls[agent] += int(point.value)
        reading.errors[agent] += int(point.value) if labels["outcome"] != OK else 0
    elif name == "fabric_worker_call_duration_seconds":
        known = reading.buckets.setdefault(agent, [0] * (len(SECONDS) + 1))
        reading.buckets[agent] = [one + other for one, other in zip(known, point.buckets, strict=True)]
    elif name == "fabric_worker_in_hand":
        reading.gauges.setdefault(labels["state"], Counter())[agent] += int(point.value)
    elif name in _SHARED and labels.get("state", "ready") == "ready":
        reading.gauges.setdefault(_SHARED[name], Counter())[agent] += int(point.value)


def rows(before: Mapping[str, Reading], after: Mapping[str, Reading], seconds: float) -> list[Row]:
    """Every agent between two readings of all processes, by their names, then groups; what began in between counts
    from nothing."""
    agents = {agent for reading in after.values() for agent in reading.calls}
    agents |= {agent for reading in after.values() for gauge in reading.gauges.values() for agent in gauge}
    return [_row(agent, before, after, seconds) for agent in sorted(agents, key=_agents_first)]


def _agents_first(name: str) -> tuple[bool, str]:
    return name.startswith(_GROUP), name


def _row(agent: str, before: Mapping[str, Reading], after: Mapping[str, Reading], seconds: float) -> Row:
    calls = errors = 0
    buckets = [0] * (len(SECONDS) + 1)
    for process, now in after.items():
        then = before.get(process, Reading())
        if now.calls[agent] < then.calls[agent]:  # it was started anew
            then = Reading()
        calls += now.calls[agent] - then.calls[agent]
        errors += now.errors[agent] - then.errors[agent]
        nothing = [0] * len(buckets)
        more = zip(buckets, now.buckets.get(agent, nothing), then.buckets.get(agent, nothing), strict=True)
        buckets = [so_far + new - old for so_far, new, old in more]

    def gauges(name: str) -> list[int]:
        return [reading.gauges.get(name, Counter[str]())[agent] for reading in after.values()]

    return Row(
        agent=agent.removeprefix(_GROUP),
        group=agent.startswith(_GROUP),
        instances=max(gauges("instances"), default=0),
        calls_per_second=calls / seconds,
        p50_seconds=quantile(buckets, 0.5),
        p95_seconds=quantile(buckets, 0.95),
        errors_per_second=errors / seconds,
        running=sum(gauges("running")),
        waiting=sum(gauges("waiting")),
        backlog=max(gauges("backlog"), default=0),
        dead_letters=max(gauges("dead_letters"), default=0),
    )


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """As Prometheus has it: evenly spread within a bucket; beyond all bounds, the last of them. `None` for nothing."""
    sums = list(accumulate(buckets))
    if not sums or not sums[-1]:
        return None
    rank = share * sums[-1]
    at = bisect_left(sums, rank)
    if at >= len(SECONDS):
        return SECONDS[-1]
    below, least = (sums[at - 1], SECONDS[at - 1]) if at else (0, 0.0)
    return least + (SECONDS[at] - least) * (rank - below) / (sums[at] - below)
