"""Breakers: calls of an agent that is not there fail at once, but for one now and then, which tries.

Above: `patterns.call`. Below: nothing. Pure. One thing alone opens a breaker: calls that waited for an instance for all
their patience. So no caller can open one for others, by short deadlines or bad arguments; and whoever is there, however
slow or failing, is called as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OPEN_AFTER: Final = 3
"""Calls in a row that waited in vain."""
TRY_SECONDS: Final = 1.0
"""Between two calls that an open breaker lets through, each of which waits as ever: the first to be taken closes it."""
_MOST: Final = 500
"""Agents with a breaker; a name is whatever a caller says."""


@dataclass(slots=True)
class _Breaker:
    in_vain: int = 0
    next_try: float = 0.0


class Breakers(dict[str, _Breaker]):
    """Of the agents that calls waited for in vain lately; false while there is none, which is all that is looked at."""

    def refuse(self, agent: str, now: float) -> bool:
        """Whether a call of `agent` is to fail at once; else, an open breaker takes it for one that tries."""
        breaker = self.get(agent)
        if breaker is None or breaker.in_vain < OPEN_AFTER:
            return False
        if now < breaker.next_try:
            return True
        breaker.next_try = now + TRY_SECONDS
        return False

    def waited_in_vain(self, agent: str, now: float) -> bool:
        """A call of `agent` has waited for an instance as long as it could; tells whether that opens its breaker."""
        breaker = self.get(agent)
        if breaker is None:
            if len(self) >= _MOST:
                del self[next(iter(self))]
            breaker = self[agent] = _Breaker()
        breaker.in_vain += 1
        if breaker.in_vain != OPEN_AFTER:
            return False
        breaker.next_try = now + TRY_SECONDS
        return True

    def taken(self, agent: str) -> bool:
        """An instance of `agent` has taken a call; tells whether that closes a breaker that was open."""
        breaker = self.pop(agent, None)
        return breaker is not None and breaker.in_vain >= OPEN_AFTER

    @property
    def open(self) -> list[str]:
        """The agents whose calls fail at once."""
        return [agent for agent, breaker in self.items() if breaker.in_vain >= OPEN_AFTER]
