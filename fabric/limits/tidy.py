"""Forgetting what is idle, a little at a time: a table of any size never stops the loop for long.

Above: the limiter and the lock-outs, now and then. Below: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

LOOKED_AT: Final = 1000
"""Entries at a time: well under a millisecond."""


def tidy(table: dict[K, V], idle: Callable[[V], bool]) -> bool:
    """Look at those that were not looked at for longest, and forget those that are idle; whether there were any."""
    forgotten = False
    for key in list(islice(table, LOOKED_AT)):
        value = table.pop(key)
        if idle(value):
            forgotten = True
        else:
            table[key] = value
    return forgotten
