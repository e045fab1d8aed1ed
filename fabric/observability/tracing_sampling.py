"""Which requests are traced: decided at the gateway, at first sight, and before anything is made for one.

Above: the gateway. Below: a random number. A client's own decision holds: what it samples is traced here, what it does
not is not. But each traced request costs about as much as it does to serve one, so nobody is taken at their word for
more than `HONOURED` a second at each gateway; beyond that, the draw decides as for all others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from fabric_sdk.contracts.scope import Trace

HONOURED: Final = 50.0
"""Requests a second that are traced because their clients say so."""


class Sampling:
    """Says of each request whether it is traced."""

    def __init__(
        self,
        rate: float,
        *,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        """The share, from 0 to 1, of those whose clients say nothing."""
        self._draw = draw
        self._clock = clock
        self._room = HONOURED
        self._filled = clock()

    def takes(self, trace: Trace | None) -> bool:
        """Whether a request that came in this trace is traced."""
        if trace is None:
            return self._draw() < self.rate
        if not trace.sampled:
            return False
        return self._is_honoured() or self._draw() < self.rate

    def _is_honoured(self) -> bool:
        now = self._clock()
        self._room = min(HONOURED, self._room + (now - self._filled) * HONOURED)
        self._filled = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


def declined(trace: Trace) -> Trace:
    """The same trace, to be kept by nobody: under a parent of our own, as W3C wants it where the flag changes."""
    if not trace.sampled:
        return trace
    return Trace(f"00-{trace.trace_id}-{random.getrandbits(64) or 1:016x}-00", trace.tracestate)
