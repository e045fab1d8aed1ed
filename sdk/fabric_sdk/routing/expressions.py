"""Expressions of subscribers, in CEL: which events they want, and what they want to see of them.

Above: patterns. Below: the Rust implementation of CEL, compiled once for each expression. CEL always ends, reaches
nothing outside the event, and refuses to mix types; so whoever may subscribe may also filter.
"""

from __future__ import annotations

from typing import Any

from fabric_sdk.contracts.errors import InvalidParams, Reject
from fabric_sdk.contracts.event import Event

_LONGEST = 4096


class TransformationFailed(Reject):
    """An event does not fit the transformation that its subscriber declared, and never will."""


class Expression:
    """One compiled expression over `event` (its attributes) and `data`."""

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            InvalidParams: it is no CEL expression.
        """
        if len(source) > _LONGEST:
            raise InvalidParams(f"an expression has at most {_LONGEST} characters")
        import cel  # here, since it brings a command line of its own: 0.3 s that only those pay who use expressions

        try:
            self._program = cel.compile(source)
        except ValueError as wrong:
            raise InvalidParams(f"{source!r} is no CEL expression: {str(wrong).splitlines()[0]}") from None
        self.source = source

    def accepts(self, event: Event) -> bool:
        """Whether a filter lets `event` through; one that speaks of what the event has not does not."""
        try:
            return self._value(event) is True
        except Exception:  # the library raises several kinds for a missing member, a wrong type, a division by zero
            return False

    def transformed(self, event: Event) -> Any:
        """What a transformation makes of `event`.

        Raises:
            TransformationFailed: it does not fit.
        """
        try:
            return self._value(event)
        except Exception as misfit:
            raise TransformationFailed(f"{self.source!r} does not fit event {event.id}: {misfit}") from misfit

    def _value(self, event: Event) -> Any:
        return self._program.execute({"event": event.about(), "data": event.data})
