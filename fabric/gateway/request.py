"""One request at the REST door, and what may be read from it: arguments, options, who asks.

Above: `rest`, `app`. Below: headers and the query. Pure; whatever is not as it has to be is a `Problem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw

from fabric.gateway.admission import Headers, takes_events
from fabric.gateway.forward import Asker
from fabric.gateway.http import JSON, Receive, Send
from fabric.gateway.problems import Problem
from fabric.identity.identity import Identity
from fabric_sdk.contracts.scope import Trace
from fabric_sdk.contracts.task import PRIORITIES, Priority

PREFIX: Final = "/api/"
_LONGEST_KEY: Final = 255
_LONGEST_DELAY: Final = 365 * 86_400.0

_read_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


@dataclass(frozen=True, slots=True)
class Request:
    """One request, admitted and whole."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    identity: Identity
    receive: Receive
    send: Send

    @property
    def streams(self) -> bool:
        """Whether the client takes server-sent events."""
        return takes_events(self.headers.get(b"accept", b""))

    def option(self, name: str) -> str | None:
        """A value from the query; the last one, of several."""
        return dict(parse_qsl(self.query.decode("latin-1"), keep_blank_values=True)).get(name)

    def arguments(self) -> bytes:
        """The JSON object in the body, as it was written; of an empty body, an empty one.

        Raises:
            Problem: it is something else.
        """
        if not self.body:
            return b"{}"
        if self.headers.get(b"content-type", b"").partition(b";")[0].rstrip().lower() != JSON:
            raise Problem(415, "the body must be application/json")
        try:
            self.body.decode()
            _read_members(self.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Problem(400, "the body must be a JSON object: the arguments by their names") from None
        return self.body

    def asker(self) -> Asker:
        """Who asks, in which trace, and under which key.

        Raises:
            Problem: it is no key.
        """
        key = self.headers.get(b"idempotency-key", b"").decode("latin-1") or None
        if key is not None and not (len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
            raise Problem(400, f"an Idempotency-Key has 1 to {_LONGEST_KEY} printable ASCII characters")
        told = (self.headers.get(name, b"").decode("latin-1") for name in (b"traceparent", b"tracestate"))
        return Asker(self.identity.principal, Trace.of(*told), key=key, roles=self.identity.roles)

    def priority(self) -> Priority:
        """Of a task.

        Raises:
            Problem: there is none such.
        """
        stated = self.option("priority") or "normal"
        if stated not in PRIORITIES:
            raise Problem(400, f"priority is one of {', '.join(PRIORITIES)}")
        return stated

    def delay(self) -> float:
        """Seconds before a task may be begun.

        Raises:
            Problem: it is no number of them, or too many.
        """
        try:
            delay = float(self.option("delay") or 0)
        except ValueError:
            delay = -1.0
        if not 0 <= delay <= _LONGEST_DELAY:
            raise Problem(400, f"delay is a number of seconds from 0 to {_LONGEST_DELAY:.0f}")
        return delay
