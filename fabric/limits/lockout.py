"""Lock-out: whoever is refused again and again is not looked at any more for some time, each time for longer.

Above: the limiter. Below: nothing. Each gateway decides by itself. No more than `MOST` are remembered: for one more,
that one is forgotten which `tidy` has not looked at for longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from fabric.limits.rules import Lockout
from fabric.limits.tidy import tidy

MOST: Final = 100_000


@dataclass(slots=True)
class _Record:
    since: float
    strikes: int = 0
    seconds: int = 0
    """How long the last lock-out was."""
    until: float = -inf


class Lockouts:
    """Who is locked out, and who is about to be."""

    def __init__(self, rule: Lockout | None) -> None:
        self._rule = rule
        self._records: dict[str, _Record] = {}

    def change(self, rule: Lockout | None) -> None:
        """Lock out by another rule from now on; without one, nobody is any more."""
        self._rule = rule
        if rule is None:
            self._records.clear()

    def __len__(self) -> int:
        return len(self._records)

    def left(self, key: str, now: float) -> float:
        """Seconds for which `key` is still locked out; 0 if it is not."""
        record = self._records.get(key)
        return 0.0 if record is None else max(record.until - now, 0.0)

    def strike(self, key: str, now: float) -> None:
        """Count a refusal; the last one of too many locks out."""
        rule = self._rule
        if rule is None:
            return
        if (record := self._records.get(key)) is None:
            if len(self._records) >= MOST:
                del self._records[next(iter(self._records))]
            record = self._records[key] = _Record(now)
        if now < record.until:
            return
        if now - record.since > rule.within:
            record.since, record.strikes = now, 0
        record.strikes += 1
        if record.strikes >= rule.after:
            behaved = now - record.until > rule.longest
            record.seconds = rule.seconds if behaved else min(2 * record.seconds, rule.longest)
            record.until = now + record.seconds
            record.strikes = 0

    def tidy(self, now: float) -> None:
        """Forget some of those who have behaved for long enough."""
        if (rule := self._rule) is not None:
            tidy(self._records, lambda record: now > max(record.since + rule.within, record.until + rule.longest))
