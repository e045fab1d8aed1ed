"""Expressions of subscribers, in CEL: which events they want, and what they want to see of them.

Above: patterns. Below: the Rust implementation of CEL, compiled once for each expression. CEL always ends, reaches
nothing outside the event, and refuses to mix types; so whoever may subscribe may also filter.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from fabric_sdk.contracts.errors import InvalidParams, Reject
from fabric_sdk.contracts.event import Event

log = logging.getLogger(__name__)

_LONGEST = 4096
_UNDEFINED = re.compile(r"Undefined variable or function: '([^']+)'")
"""How the library says that a name stands for nothing: of a variable, whatever the event."""


class TransformationFailed(Reject):
    """An event does not fit the transformation that its subscriber declared, and never will."""


class Expression:
    """One compiled expression over `event` (its attributes) and `data`."""

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            InvalidParams: it is no CEL expression, or speaks of what there never is.
        """
        if len(source) > _LONGEST:
            raise InvalidParams(f"an expression has at most {_LONGEST} characters")
        import cel  # here, since it brings a command line of its own: 0.3 s that only those pay who use expressions

        try:
            self._program = cel.compile(source)
        except ValueError as wrong:
            raise InvalidParams(f"{source!r} is no CEL expression: {str(wrong).splitlines()[0]}") from None
        self.source = source
        self._warned = False
        # The library cannot list the free names of a program (those that it binds are among them), but it stumbles over
        # one that is not known, unless there is a way around it for an event without data.
        try:
            self._program.execute({"event": {}, "data": {}})
        except Exception as misfit:
            if (name := self._unknown(misfit)) is not None:
                raise InvalidParams(
                    f"{source!r} speaks of {name!r}, which there never is", fix="speak of `event` and `data`"
                ) from None

    def accepts(self, event: Event) -> bool:
        """Whether a filter lets `event` through; one that speaks of what the event has not does not."""
        try:
            return self._value(event) is True
        except Exception as misfit:  # of several kinds: a missing member, a wrong type, a division by zero
            if not self._warned and (name := self._unknown(misfit)) is not None:
                self._warned = True
                log.warning(
                    "the filter %r passed an event over: it speaks of %r, which there never is", self.source, name
                )
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

    def _unknown(self, misfit: Exception) -> str | None:
        """The variable that no event has, if that is what was wrong."""
        said = _UNDEFINED.match(str(misfit))
        return said[1] if said and said[1] in self._program.variables() else None

    def _value(self, event: Event) -> Any:
        return self._program.execute({"event": event.about(), "data": event.data})
