"""What the gateway notes in the audit log, in its own words: who was kept from what, and, where wished, each call.

Above: `gate`, and by it all doors. Below: the trail. What is not noted costs one look at a flag; noting is an append.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from fabric.audit.entry import Entry, Outcome, named
from fabric.audit.trail import Trail
from fabric.gateway.rpc import FORBIDDEN, Refusal
from fabric.gateway.view import Route
from fabric.identity.identity import Identity
from fabric_sdk.contracts.errors import CallCancelled
from fabric_sdk.contracts.scope import Trace

if TYPE_CHECKING:
    from fabric.gateway.approving import Wanted

CANCELLED: Final = CallCancelled.code


class Barred(Refusal):
    """A refusal that is noted."""

    def __init__(
        self, code: int, message: str, outcome: Outcome, route: Route | None, rule: str = "", **more: Any
    ) -> None:
        """`route`: where it was to go, if there is such a place; `rule`: the rule or limit that decided."""
        super().__init__(code, message, **more)
        self.outcome: Outcome = outcome
        self.route = route
        self.rule = rule


class Deed(Struct, frozen=True):
    """What somebody wants of the gateway."""

    identity: Identity
    door: str
    method: str
    named: str
    """What it is done with, as the client says."""
    size: int
    """Bytes of the request."""
    trace: Trace | None = None


class Auditor:
    """Notes what one gateway lets and does not let through."""

    def __init__(self, trail: Trail) -> None:
        self.calls = trail.level == "calls"
        """Whether each call is noted."""
        self._trail = trail

    def barred(self, deed: Deed, refusal: Refusal) -> None:
        """Somebody was kept from something, if that is what `refusal` says."""
        if isinstance(refusal, Barred):
            self._trail.note_often(_entry(deed, refusal.outcome, refusal.route, refusal.rule, refusal.code))

    def called(self, deed: Deed, route: Route | None, rule: str, code: int, began: float) -> None:
        """A call has ended, with this code; 0 for its result. `began`: by `time.perf_counter`."""
        outcome: Outcome = "done" if not code else "cancelled" if code == CANCELLED else "failed"
        if code == FORBIDDEN:
            outcome = "refused"
        entry = _entry(deed, outcome, route, rule, code)
        entry.ms = round((time.perf_counter() - began) * 1000, 3)
        self._trail.note(entry)

    def judged(self, wanted: Wanted, outcome: Outcome, approval: str) -> None:
        """A rule put something before a person, or a person has said something to it in the call itself."""
        deed = Deed(wanted.identity, wanted.door, wanted.method, wanted.named, len(wanted.params))
        entry = _entry(deed, outcome, wanted.route, wanted.rule.name, 0)
        entry.about = approval
        self._trail.note(entry)

    def turned_away(self, outcome: Outcome, address: str, door: str, rule: str = "") -> None:
        """Somebody did not even get in."""
        self._trail.note_often(Entry(at=time.time(), outcome=outcome, address=address, door=door, rule=rule))

    def reloaded(self, rules: int) -> None:
        """Another policy holds."""
        self._trail.note(Entry(at=time.time(), outcome="managed", method="policy/reload", about=f"{rules} rules"))


def _entry(deed: Deed, outcome: Outcome, route: Route | None, rule: str, code: int) -> Entry:
    return Entry(
        at=time.time(),
        outcome=outcome,
        principal=deed.identity.principal,
        token=deed.identity.token_id,
        door=deed.door,
        method=deed.method,
        agent="" if route is None else route.agent,
        tool=named(deed.named if route is None else route.name),
        rule=rule,
        code=code,
        trace="" if deed.trace is None else deed.trace.trace_id,
        size=deed.size,
    )
