"""When a schedule fires next, worked out from what is stored of it: JetStream's clock tells nobody.

Above: the agent `durable`, the command line. Below: cronsim. Cron expressions and times fire as they say. What comes
`every` so often counts from when it was set; a server that was away at a firing counts from its return instead, which
nobody outside can know.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from fabric_sdk.patterns.schedule import Schedule, pattern_of

_NAMED: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_EVERY: Final = "every "


def with_next(schedule: Schedule, now: float) -> dict[str, Any]:
    """All that is known of a schedule, and when it fires `next`: Unix time in seconds."""
    about = {name: getattr(schedule, name) for name in Schedule.__slots__}
    return about | {"next": next_firing(schedule, now)}


def next_firing(schedule: Schedule, now: float) -> float | None:
    """Unix time in seconds; none for what never fires, or says so in words of the server's alone."""
    try:
        if not schedule.again:
            return datetime.fromisoformat(schedule.when).timestamp()
        if schedule.when.startswith(_EVERY):
            return _next_of_interval(schedule.when.removeprefix(_EVERY), schedule.stored, now)
        return _next_of_cron(schedule.when, schedule.zone, now)
    except (ValueError, CronSimError, StopIteration, KeyError):
        return None


def _next_of_interval(interval: str, stored: float, now: float) -> float | None:
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(interval))
    if seconds <= 0:
        return None
    began = math.floor(stored + 0.5)  # as the server does it
    return began + seconds * (max(0, math.floor((now - began) / seconds)) + 1)


def _next_of_cron(when: str, zone: str | None, now: float) -> float:
    expression = _NAMED.get(when) or pattern_of(when).replace("?", "*")
    return next(CronSim(expression, datetime.fromtimestamp(now, ZoneInfo(zone) if zone else UTC))).timestamp()
