"""What Redis keeps of limits, as a model: for worlds with a clock of their own, and to compare Redis with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fabric.limits.spending import Spent, Standing


class Ledger:
    """Does what `spend.lua` does."""

    def __init__(self) -> None:
        self._free: defaultdict[str, float] = defaultdict(float)
        self._used: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._told: defaultdict[str, int] = defaultdict(int)

    def spend(self, spender: str, number: int, spent: Sequence[Spent], now: float) -> list[Standing]:
        new = number > self._told[spender]
        self._told[spender] = max(number, self._told[spender])
        return [self._count(each, new, now) for each in spent]

    def _count(self, each: Spent, new: bool, now: float) -> Standing:
        if new and each.seconds:
            self._free[each.bucket] = max(self._free[each.bucket], now - each.age) + each.seconds
        used = 0
        if each.day is not None:
            used = max(self._used[each.bucket, each.day], each.known) + new * each.uses
            self._used[each.bucket, each.day] = used
        return Standing(ahead=self._free[each.bucket] - now, used=used)
