"""Limiters with little text."""

from __future__ import annotations

from fabric.limits.limiter import Limited, Limiter, Permit
from fabric.limits.rules import Limits, Lockout, Rule

NOON = 1_800_014_400.0
"""A Unix time 12 hours before midnight."""


def limiter(*rules: Rule, lockout: Lockout | None = None, now: float = 0.0, unix: float = NOON) -> Limiter:
    return Limiter(Limits(rules, lockout), now, unix)


def take(limits: Limiter, now: float, client: str = "ann", agent: str = "shop", tool: str = "shop_buy") -> bool:
    """Whether a call is let through; it ends at once."""
    taken = limits.take(client, agent, tool, now)
    if isinstance(taken, Permit):
        taken.release()
        return True
    return False


def refused(limits: Limiter, now: float, client: str = "ann", tool: str = "shop_buy") -> Limited:
    taken = limits.take(client, "shop", tool, now)
    assert isinstance(taken, Limited)
    return taken


def permitted(limits: Limiter, now: float, client: str = "ann", tool: str = "shop_buy") -> Permit:
    taken = limits.take(client, "shop", tool, now)
    assert isinstance(taken, Permit)
    return taken


def most_above(times: list[float], rate: float) -> float:
    """By how much the calls of any stretch of time are more than `rate` gives in it."""
    worst = above = 0.0
    last = -1e9
    for now in times:
        above = max(above - (now - last) * rate, 0.0) + 1
        worst, last = max(worst, above), now
    return worst
