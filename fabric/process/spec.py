"""What a supervised process is: how it is started, how it is known to work, how long it may take to stop.

Above: `child`, `supervisor`, and whoever composes a system of processes. Below: nothing.
It refuses to know what the process does: a broker, a gateway and a worker are described in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Probe = Callable[[], Awaitable[None]]
"""Asks a process whether it works. Returns if it does; raises anything, with a reason in words, if it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to supervise. All times are in seconds."""

    name: str
    """What people call it in messages and listings; unique within a supervisor."""
    argv: tuple[str, ...]
    """The program and its arguments. Other users can read it with `ps`: no secret belongs here."""
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Added to the supervisor's own environment; the place for secrets, never shown by `repr`."""
    without: frozenset[str] = frozenset()
    """Names of variables in the supervisor's environment that it must not inherit."""
    cwd: Path | None = None
    """Where it runs; `None` is the supervisor's own folder."""
    log: Path | None = None
    """File that its output is appended to; `None` lets it write where the supervisor writes."""
    probe: Probe | None = None
    """How readiness and health are known; `None` takes a running process for a working one."""
    startup: float = 30.0
    """How long it may take until the probe passes for the first time."""
    grace: float = 10.0
    """How long it may take to end after SIGTERM, before its whole group gets SIGKILL."""
    descriptors: tuple[int, ...] = ()
    """Open descriptors that it inherits, for example a lock that must be held for as long as it lives."""
