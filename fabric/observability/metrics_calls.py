"""Calls, counted: how long each took, how it ended, and whose it was.

Above: `fabric.gateway.forward`; workers, as a middleware. Below: `metrics`. Labels are names that a catalogue holds or
a function answered to, never what a caller made up.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

from fabric.observability.metrics import BYTES, MOST, OTHER, Count, Histogram, Labels, Metrics, Series
from fabric_sdk.contracts.errors import FabricError
from fabric_sdk.contracts.scope import Trace

OK: Final = "ok"
BREAKERS: Final = (
    "fabric_breaker_open",
    "1 where calls of an agent fail at once, since no instance took one for a while.",
)
_SAMPLED: Final = frozenset("13579bdf")
_ENDS: Final = 64 * MOST
"""A call ends in as many ways as there are errors: these are no names that anybody makes up."""


class Route:
    """What is counted of the calls with one set of labels."""

    __slots__ = ("_labels", "_of", "ok", "seconds")

    def __init__(self, labels: Labels, seconds: Histogram, outcomes: Series[Count]) -> None:
        self._labels = labels
        self._of = outcomes
        self.seconds = seconds
        self.ok = outcomes.of(*labels, OK)

    def ended(self, began: float, outcome: str = OK, trace: Trace | None = None) -> None:
        """Count one call that began at this reading of `perf_counter`."""
        sampled = trace is not None and trace.traceparent[-1] in _SAMPLED
        self.seconds.record(perf_counter() - began, trace.trace_id if sampled and trace else None)
        if outcome is OK:
            self.ok.value += 1
        else:
            self._of.of(*self._labels, outcome).add()


class Calls:
    """Calls of one side: `<name>_duration_seconds` and `<name>s_total`."""

    def __init__(self, metrics: Metrics, name: str, what: str, labels: Labels) -> None:
        self._seconds = metrics.histogram(f"{name}_duration_seconds", f"Seconds from {what}.", labels, most=MOST + 1)
        self._outcomes = metrics.counter(
            f"{name}s", f"Ended calls, timed from {what}.", (*labels, "outcome"), most=_ENDS
        )
        self._routes: dict[Labels, Route] = {}
        self._others = (OTHER,) * len(labels)

    def of(self, *labels: str) -> Route:
        """The calls with these labels; beyond `MOST` sets of them, those of all others."""
        return self._routes.get(labels) or self._new(labels)

    def _new(self, labels: Labels) -> Route:
        if len(self._routes) >= MOST:
            labels = self._others
        if labels not in self._routes:
            self._routes[labels] = Route(labels, self._seconds.of(*labels), self._outcomes)
        return self._routes[labels]


class Sizes:
    """Messages of one side, by size."""

    def __init__(self, metrics: Metrics, name: str, what: str) -> None:
        series = metrics.histogram(f"{name}_size_bytes", what, ("direction",), unit="bytes", bounds=BYTES)
        self.request = series.of("request")
        self.response = series.of("response")


_NAMES: dict[type[BaseException], str] = {asyncio.CancelledError: "cancelled"}


def outcome_of(failure: BaseException) -> str:
    """How a call ended, in a word: `handler_failed`, `deadline_exceeded`, …"""
    kind = type(failure)
    if (name := _NAMES.get(kind)) is None:
        name = _NAMES[kind] = _snake(kind.__name__) if isinstance(failure, FabricError) else "internal"
    return name


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
