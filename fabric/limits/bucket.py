"""One bucket: what one client, tool or agent has used of one limit.

Above: the limiter. Below: nothing. The rate is kept as GCRA: a single moment, `free`, at which all that was used will
have been given back; it moves on by `period` with each use, and may be at most `slack` seconds ahead of now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil, inf
from typing import Final, NamedTuple

from fabric.limits.rules import Rule

Header = tuple[bytes, bytes]

DAY: Final = 86_400
_BUSY_SECONDS: Final = 1.0
"""When to come again to one whose calls in hand are as many as may be: nobody knows when the first of them ends."""
_ROUNDING: Final = 1e-3
"""The part of a use that a bucket may lack: sums of floating-point numbers must not cost a call."""


class Policy(NamedTuple):
    """One limit in the words of draft-ietf-httpapi-ratelimit-headers: `q`, `qu`, `w` of its policy, `r` and `t` now."""

    name: str
    quota: int
    remaining: int
    window: int | None = None
    """Seconds."""
    reset: float | None = None
    """Seconds until there is more."""
    unit: str = "requests"


class Bucket:
    """What was used. The limiter alone changes it; it reads the fields without a call, which would cost more."""

    __slots__ = (
        "concurrency", "daily", "first", "free", "name", "period", "rule", "running", "slack", "today", "unsent",
    )  # fmt: skip

    def __init__(self, rule: Rule, name: str) -> None:
        self.name = name
        """The same in every gateway."""
        self.change(rule)
        self.free = -inf
        self.running = 0
        """Calls in hand here."""
        self.today = 0
        """As far as known here."""
        self.unsent = 0
        """Uses that the other gateways were not told of …"""
        self.first = 0.0
        """… and when the first of them was."""

    def change(self, rule: Rule) -> None:
        """Count by another rule from now on; what was used is given back when the old one would have."""
        self.rule = rule
        self.period = 1 / rule.rate
        self.slack = inf if rule.rate == inf else (rule.burst - 1 + _ROUNDING) * self.period
        self.concurrency = rule.concurrency
        self.daily = rule.daily

    @property
    def shared(self) -> bool:
        """Whether the other gateways have to know; what runs is counted by each for itself."""
        return self.period > 0 or self.daily < inf

    def idle(self, now: float) -> bool:
        """Whether a new one would be no different."""
        return self.free <= now and not (self.running or self.unsent or (self.today and self.daily < inf))

    def wait(self, now: float, midnight: float) -> float:
        """Seconds until a use may be let through; 0 for at once."""
        rate = self.free - now - self.slack
        busy = _BUSY_SECONDS if self.running >= self.concurrency else 0.0
        day = midnight - now if self.today >= self.daily else 0.0
        return max(rate, busy, day, 0.0)

    def policies(self, now: float, midnight: float) -> Iterator[Policy]:
        """Each of its limits, as it stands."""
        rule = self.rule
        if self.period:
            ahead = max(self.free - now, 0.0)
            left = max(int((self.slack - ahead) / self.period + 1), 0)
            more = ahead - (rule.burst - left - 1) * self.period if left < rule.burst else None
            yield Policy(rule.name, rule.burst, left, max(ceil(rule.burst * self.period), 1), more)
        if self.daily < inf:
            left = max(int(self.daily) - self.today, 0)
            yield Policy(f"{rule.name}-daily", int(self.daily), left, DAY, midnight - now)
        if self.concurrency < inf:
            left = max(int(self.concurrency) - self.running, 0)
            yield Policy(f"{rule.name}-concurrency", int(self.concurrency), left, unit="concurrent-requests")


def headers(buckets: Iterable[Bucket], now: float, midnight: float) -> tuple[Header, ...]:
    """`RateLimit-Policy` and `RateLimit` for the limit of which the smallest part is left; nothing without limits."""
    policies = [policy for bucket in buckets for policy in bucket.policies(now, midnight)]
    if not policies:
        return ()
    name, quota, remaining, window, reset, unit = min(policies, key=lambda policy: policy.remaining / policy.quota)
    policy = f'"{name}";q={quota}'
    if unit != "requests":
        policy += f';qu="{unit}"'
    if window is not None:
        policy += f";w={window}"
    limit = f'"{name}";r={remaining}'
    if reset is not None:
        limit += f";t={max(ceil(reset), 0)}"
    return (b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode())
