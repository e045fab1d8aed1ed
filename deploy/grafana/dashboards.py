"""Writes the Grafana dashboards: `python deploy/grafana/dashboards.py`. The suite holds the files to this.

A panel is a title, a unit and one query or a few; all else is the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = Path(__file__).parent / "provisioning" / "dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
_WIDTH: Final = 8
_HEIGHT: Final = 8

Unit = Literal["short", "s", "bytes", "reqps", "percentunit"]


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    queries: Mapping[str, str]
    """What is asked, by what it is called in the legend; `{{label}}` stands for a label."""
    unit: Unit = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"


CALLS = "fabric_gateway_calls_total"
SECONDS = "fabric_gateway_call_duration_seconds_bucket"


def _quantile(quantile: float, by: str, bucket: str = SECONDS) -> str:
    return f"histogram_quantile({quantile}, sum by ({by}, le) (rate({bucket}[$__rate_interval])))"


DASHBOARDS: Final[dict[str, tuple[str, list[Panel]]]] = {
    "overview": (
        "Agent Fabric: overview",
        [
            Panel("Calls a second", {"calls": f"sum(rate({CALLS}[$__rate_interval]))"}, "reqps", "stat"),
            Panel("Failures, of 0.05 % allowed", {"failures": "fabric:error_ratio:rate5m"}, "percentunit", "stat"),
            Panel("Dead letters", {"letters": "sum(max by (agent) (fabric_dead_letters))"}, kind="stat"),
            Panel("p95 by class", {"{{class}}": "fabric:p95_seconds:rate5m"}, "s"),
            Panel("Slow calls by class, of 5 % allowed", {"{{class}}": "fabric:slow_ratio:rate5m"}, "percentunit"),
            Panel("Instances", {"{{agent}}": 'max by (agent) (fabric_leases{state="ready"})'}),
            Panel("Processes that are up", {"{{process}}": "sum by (process) (fabric_process_up)"}),
            Panel("NATS", {"{{process}}": "min by (process) (fabric_nats_connected)"}),
            Panel(
                "Reconnects and restarts",
                {
                    "reconnects {{process}}": "increase(fabric_nats_reconnects_total[$__rate_interval])",
                    "restarts {{process}}": "increase(fabric_process_restarts_total[$__rate_interval])",
                },
            ),
            Panel("Processor", {"{{process}}": "rate(process_cpu_seconds_total[$__rate_interval])"}, "percentunit"),
            Panel("Memory", {"{{process}}": "process_resident_memory_bytes"}, "bytes"),
            Panel(
                "Event loop lag, p90",
                {"{{process}}": _quantile(0.9, "process", "fabric_event_loop_lag_seconds_bucket")},
                "s",
            ),
            Panel("Open descriptors", {"{{process}}": "process_open_fds"}),
            Panel("Threads", {"{{process}}": "process_threads"}),
            Panel("Redis", {"redis": "max(fabric_redis_up)"}),
            Panel("Spans dropped", {"{{process}}": "increase(fabric_spans_dropped_total[$__rate_interval])"}),
        ],
    ),
    "gateway": (
        "Agent Fabric: gateway",
        [
            Panel("Calls by class", {"{{class}}": f"sum by (class) (rate({CALLS}[$__rate_interval]))"}, "reqps"),
            Panel(
                "Failures by outcome",
                {
                    "{{outcome}} {{agent}}": "sum by (outcome, agent) "
                    f'(rate({CALLS}{{outcome!="ok"}}[$__rate_interval]))'
                },
                "reqps",
            ),
            Panel(
                "How long calls take",
                {f"p{int(each * 100)}": _quantile(each, "job") for each in (0.5, 0.95, 0.99)},
                "s",
            ),
            Panel("In flight", {"{{process}}": "fabric_gateway_in_flight"}),
            Panel(
                "Turned away",
                {
                    "HTTP {{status}}": "sum by (status) (rate(fabric_gateway_refusals_total[$__rate_interval]))",
                    "limit {{rule}}": "sum by (rule) (rate(fabric_gateway_throttled_total[$__rate_interval]))",
                    "policy": "sum(rate(fabric_gateway_forbidden_total[$__rate_interval]))",
                },
                "reqps",
            ),
            Panel(
                "Size, p95",
                {"{{direction}}": _quantile(0.95, "direction", "fabric_gateway_call_size_bytes_bucket")},
                "bytes",
            ),
        ],
    ),
    "agents": (
        "Agent Fabric: agents",
        [
            Panel(
                "Calls by agent",
                {"{{agent}} {{kind}}": "sum by (agent, kind) (rate(fabric_worker_calls_total[$__rate_interval]))"},
                "reqps",
            ),
            Panel("p95 by tool", {"{{agent}} {{tool}}": _quantile(0.95, "agent, tool")}, "s"),
            Panel(
                "p95 of handlers",
                {"{{agent}} {{tool}}": _quantile(0.95, "agent, tool", "fabric_worker_call_duration_seconds_bucket")},
                "s",
            ),
            Panel(
                "How handlers end",
                {
                    "{{agent}} {{outcome}}": "sum by (agent, outcome) "
                    '(rate(fabric_worker_calls_total{outcome!="ok"}[$__rate_interval]))'
                },
                "reqps",
            ),
            Panel("In hand", {"{{agent}} {{state}}": "sum by (agent, state) (fabric_worker_in_hand)"}),
            Panel(
                "Share of what workers can take",
                {
                    "{{agent}}": 'sum by (agent) (fabric_worker_in_hand{state="running"}) '
                    "/ sum by (agent) (fabric_worker_capacity)"
                },
                "percentunit",
            ),
            Panel(
                "Breakers: 1 where no call waits for an instance", {"{{agent}}": "max by (agent) (fabric_breaker_open)"}
            ),
        ],
    ),
    "tasks": (
        "Agent Fabric: tasks and streams",
        [
            Panel("Waiting", {"{{agent}} {{queue}}": "max by (agent, queue) (fabric_queue_waiting)"}),
            Panel("In hand", {"{{agent}} {{queue}}": "max by (agent, queue) (fabric_queue_in_hand)"}),
            Panel("Delivered again", {"{{agent}} {{queue}}": "max by (agent, queue) (fabric_queue_redelivered)"}),
            Panel(
                "Attempts after the first",
                {"{{agent}}": "sum by (agent) (rate(fabric_worker_task_redeliveries_total[$__rate_interval]))"},
                "reqps",
            ),
            Panel("Dead letters", {"{{agent}}": "max by (agent) (fabric_dead_letters)"}),
            Panel("Streams", {"{{stream}}": "max by (stream) (fabric_stream_size_bytes)"}, "bytes"),
            Panel("Messages", {"{{stream}}": "max by (stream) (fabric_stream_messages)"}),
            Panel(
                "Share of what a stream may keep",
                {
                    "{{stream}}": "max by (stream) (fabric_stream_size_bytes) "
                    "/ max by (stream) (fabric_stream_limit_bytes)"
                },
                "percentunit",
            ),
        ],
    ),
}


def panel(number: int, about: Panel) -> dict[str, Any]:
    """One panel, as Grafana has it."""
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend, "exemplar": True}
        for at, (legend, query) in enumerate(about.queries.items())
    ]
    place = {"h": _HEIGHT, "w": _WIDTH, "x": number % 3 * _WIDTH, "y": number // 3 * _HEIGHT}
    shown = {"id": number + 1, "type": about.kind, "title": about.title, "datasource": SOURCE, "gridPos": place}
    return shown | {"fieldConfig": {"defaults": {"unit": about.unit, "min": 0}, "overrides": []}, "targets": targets}


def dashboard(uid: str) -> dict[str, Any]:
    """One dashboard, as Grafana has it."""
    title, panels = DASHBOARDS[uid]
    about = {"uid": f"fabric-{uid}", "title": title, "tags": ["agent-fabric"], "schemaVersion": 39, "version": 1}
    about |= {"time": {"from": "now-1h", "to": "now"}, "refresh": "15s", "timezone": "browser"}
    return about | {"panels": [panel(number, each) for number, each in enumerate(panels)]}


def text(uid: str) -> str:
    """The file of one dashboard."""
    return json.dumps(dashboard(uid), indent=1) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each}.json").write_text(text(each), encoding="utf-8")
