"""When to restart a process, and when to call it unhealthy: decisions only.

Above: `child`, `supervisor`. Below: nothing. No clock, no randomness of its own, no I/O: time and chance are handed in,
so that every decision can be tested by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 64  # beyond this the delay has long met its ceiling, and the power would outgrow a float


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential backoff with jitter, forgotten once a process has stayed up. All times are in seconds."""

    first: float = 0.1
    """Longest delay before the first restart."""
    longest: float = 30.0
    """Longest delay of all; restarts never stop, they only get this rare."""
    jitter: float = 0.5
    """Share of each delay that chance may take away, so that many processes do not restart in step."""
    steady: float = 30.0
    """Uptime after which earlier failures are forgotten."""

    def failures(self, before: int, uptime: float) -> int:
        """Failures in a row, counting the one just now, of a process that had `before` and was up for `uptime`."""
        return 1 if uptime >= self.steady else before + 1

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait before the restart after so many failures in a row; `chance` is from 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(max(failures, 1) - 1, _MOST_DOUBLINGS))
        return full * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How often a ready process is asked whether it still works. Times are in seconds."""

    interval: float = 5.0
    """Pause between two probes."""
    timeout: float = 3.0
    """How long one probe may take before it counts as failed."""
    failures: int = 3
    """Failed probes in a row after which the process is killed and restarted."""
