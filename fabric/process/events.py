"""What a supervisor reports: typed events as they happen, and the state of each process when asked.

Above: `child`, `supervisor`, and whoever shows or records them. Below: nothing.
It refuses to know how events are shown. All times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Started:
    """A process runs; whether it works is not known yet."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A process passed its probe, `seconds` after it was started."""

    name: str
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """A process lives but failed its probe too often, or never passed it in time; it is killed next."""

    name: str
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A process ended: with `code`, or by `signal` ("SIGKILL"), or could not be started at all (`pid` is None)."""

    name: str
    pid: int | None
    code: int | None
    signal: str | None
    uptime: float
    reason: str


@dataclass(frozen=True, slots=True)
class Restarting:
    """A process will be started again in `seconds`, after `failures` failures in a row."""

    name: str
    seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process was stopped on request and will not be started again."""

    name: str


ProcessEvent = Started | Ready | Unhealthy | Exited | Restarting | Stopped
OnEvent = Callable[[ProcessEvent], None]
"""Receives every event, in order, in the event loop's thread; must return at once."""


class State(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # for its next restart
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process at one moment."""

    name: str
    pid: int | None
    state: State
    restarts: int
    uptime: float
    """Seconds since the present run was started; 0 when it does not run."""
