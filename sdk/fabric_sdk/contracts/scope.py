"""What a call hands down to the calls made on its behalf: deadline, principal, trace.

Above: patterns, context, worker, gateway. Below: the names of headers. A scope only ever narrows: what is called
ends no later than its caller.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote

from fabric_sdk.contracts.subjects import Header

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ODD: Final = "13579bdf"
"""The last digit of the flags, where the lowest bit is set: sampled."""
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{0,512}")

FROM: Final = "fabric/from"
"""In the `_meta` of a call: who types it, `user@host`, as the command line says, which no gateway has verified."""


class Trace(NamedTuple):
    """W3C trace context, as it came with the call."""

    traceparent: str
    tracestate: str = ""

    @staticmethod
    def of(traceparent: str | None, tracestate: str | None = None) -> Trace | None:
        """The context in two header values; `None` for a malformed one, which W3C wants ignored."""
        if traceparent is None or _TRACEPARENT.fullmatch(traceparent) is None:
            return None
        return Trace(traceparent, tracestate if tracestate and _TRACESTATE.fullmatch(tracestate) else "")

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits that all parts of one trace share."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """The 16 hexadecimal digits of the span that it came from."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether somebody keeps this trace: only then is anything of it written down."""
        return self.traceparent[-1] in _ODD


class Scope(NamedTuple):
    """What a call hands down to the calls made on its behalf."""

    deadline: float
    """Unix time in seconds."""
    principal: str | None = None
    trace: Trace | None = None
    roles: frozenset[str] = frozenset()
    """Of the principal, as verified at the edge. The platform's own agents alone are told; none hands them down."""

    def headers(self) -> dict[str, str]:
        """Principal, roles and trace, as they travel; the deadline rides in the address of the answer."""
        headers: dict[str, str] = {}
        if self.principal is not None:
            headers[Header.PRINCIPAL] = self.principal
        if self.roles:  # an issuer may call a role anything
            headers[Header.ROLES] = ",".join(sorted(quote(role, safe="") for role in self.roles))
        if self.trace is not None:
            headers[Header.TRACEPARENT] = self.trace.traceparent
            if self.trace.tracestate:
                headers[Header.TRACESTATE] = self.trace.tracestate
        return headers


def roles_in(header: str | None) -> frozenset[str]:
    """The roles that a call came with."""
    return frozenset(unquote(role) for role in header.split(",")) if header else frozenset()


current_scope: ContextVar[Scope | None] = ContextVar("current_scope", default=None)
"""The scope of the call being handled in this task; a call made here never outlives it."""


class Asker(Protocol):
    """Whoever called what runs here, as far as it can be asked something."""

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Send it an MCP request, and wait for the result."""
        ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What it can be asked: MCP client capabilities."""
        ...


current_asker: ContextVar[Asker | None] = ContextVar("current_asker", default=None)
"""Who is asked what a nested call wants to know."""


class Effects:
    """Names for what one task does to the fabric: the same for the same thing, whichever attempt does it.

    A handler that is run again starts the same tasks and publishes the same events again; under the same names the
    broker and the workers know them for repetitions.
    """

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._seen: Counter[str] = Counter()

    def name(self, *said: str) -> str:
        """A name for doing this; doing the same once more in one attempt is another thing."""
        thing = hashlib.blake2b("\0".join((self._task_id, *said)).encode(), digest_size=16).hexdigest()
        self._seen[thing] += 1
        return f"{thing}-{self._seen[thing]}"

    def take_back(self, name: str) -> None:
        """It was not done: whoever does it next, in this attempt or another, does it under this name."""
        thing, _, count = name.rpartition("-")
        if self._seen[thing] == int(count):
            self._seen[thing] -= 1


current_effects: ContextVar[Effects | None] = ContextVar("current_effects", default=None)
"""The names for what the task that runs here does to the fabric."""


def scope_for(
    timeout: float,
    *,
    principal: str | None = None,
    trace: Trace | None = None,
    roles: frozenset[str] = frozenset(),
) -> Scope:
    """A scope of `timeout` seconds from now, within the scope of the call being handled, if there is one."""
    deadline = time.time() + timeout
    outer = current_scope.get()
    if outer is None:
        return Scope(deadline, principal, trace, roles)
    return Scope(min(deadline, outer.deadline), principal or outer.principal, trace or outer.trace, roles)
