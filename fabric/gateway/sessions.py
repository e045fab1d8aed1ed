"""Sessions of the handshake revisions: kept by the broker, so that any gateway goes on with any.

Above: `legacy`, `errands`. Below: one JetStream stream. A gateway holds a copy of each that it serves, one for all who
look at it, and hears when another gateway changes it. A session belongs to the principal that opened it; to all others
there is none of this id.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import SESSIONS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import WrongSequence

IDLE_SECONDS: Final = 86_400.0
"""After so long without a request a session is forgotten."""
_MOST_HELD: Final = 20_000
_MOST_OF_ONE: Final = 5_000
"""Sessions of one principal that a gateway has seen lately. Clients seldom end theirs: for one more, the one that was
used longest ago ends. As each is bounded, no principal fills the stream that keeps them for all."""
_ENDED_SECONDS: Final = 900.0
"""For so long the end of a session is told to whoever missed it."""
_STATE: Final = "state"
_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True, kw_only=True, weakref_slot=True, eq=False)
class Session:
    """One client's session."""

    id: str
    principal: str
    version: str
    """The negotiated revision."""
    capabilities: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the client can be asked."""
    level: str = "debug"
    """The lowest log level that it wants to hear of."""
    uris: list[str] = field(default_factory=list[str])
    """Resources, by the names it uses, whose changes it wants to hear of."""
    ended: bool = False
    touched: float = 0.0
    """When this was last written: Unix time in seconds."""
    sequence: int = 0
    """The place of what is stored; 0: nothing is."""


_STORED: Final = frozenset(each.name for each in fields(Session)) - {"id", "sequence"}


class Sessions:
    """All sessions, as one gateway sees them."""

    def __init__(self, fabric: Fabric, on_end: Callable[[str], None]) -> None:
        self._fabric = fabric
        self._on_end = on_end
        self._known: WeakValueDictionary[str, Session] = WeakValueDictionary()
        """All that anybody here looks at, …"""
        self._recent: OrderedDict[str, Session] = OrderedDict()
        """… and those that were used last."""
        self._of: dict[str, OrderedDict[str, None]] = {}
        """Ids of those by principal, the one that was used last at the end."""

    async def run(self) -> None:
        """Begin to hear what other gateways change."""
        await self._fabric.transport.subscribe(subjects.session_told("*", _STATE), self._hear)

    def forget_all(self) -> None:
        """Hold none any more: what other gateways changed may have been missed."""
        self._known.clear()
        self._recent.clear()
        self._of.clear()

    async def open(self, principal: str, version: str, capabilities: dict[str, Any]) -> Session:
        """A new session.

        Raises:
            QueueFull, TransportUnavailable: it cannot be kept now.
        """
        session = Session(id=uuid4().hex, principal=principal, version=version, capabilities=capabilities)
        await self._fabric.jetstream.ensure(SESSIONS)
        await self._write(session)
        self._hold(self._learn(session))
        of_this = self._of[principal]
        while len(of_this) > _MOST_OF_ONE:
            oldest, _ = of_this.popitem(last=False)
            if (other := self._known.get(oldest) or await self._read(oldest)) is not None:
                await self.end(other)
        return session

    async def find(self, session_id: str, principal: str) -> Session | None:
        """The session of this id, if it is this principal's and has not ended.

        Raises:
            FabricError: it cannot be looked up now.
        """
        session = self._known.get(session_id) or await self._read(session_id)
        if session is None or session.ended or session.principal != principal:
            return None
        self._hold(session)
        if session.touched < time.time() - IDLE_SECONDS / 4:
            await self.change(session, lambda _: None)
        return session

    async def change(self, session: Session, how: Callable[[Session], None]) -> None:
        """Change a session, whichever gateway changes it at the same time.

        Raises:
            FabricError: it cannot be changed now; it is as it was.
        """
        while True:
            changed = replace(session)
            how(changed)
            try:
                await self._write(changed)
            except WrongSequence:
                if (stored := await self._read(session.id)) is None:
                    return
                session = stored
            else:
                self._learn(changed)
                return

    async def end(self, session: Session) -> None:
        """End a session, at every gateway."""

        def over(session: Session) -> None:
            session.ended, session.uris, session.capabilities = True, [], {}

        await self.change(session, over)

    async def _write(self, session: Session) -> None:
        session.touched = time.time()
        lasts = _ENDED_SECONDS if session.ended else IDLE_SECONDS
        headers = {Header.EXPECTED: str(session.sequence), Header.TTL: f"{int(lasts)}s", Header.ROLLUP: "sub"}
        stored = {name: value for name, value in asdict(session).items() if name in _STORED}
        subject = subjects.session(session.id, _STATE)
        session.sequence = (await self._fabric.jetstream.store(subject, Body(stored), headers)).sequence

    async def _read(self, session_id: str) -> Session | None:
        if _ID.fullmatch(session_id) is None:  # it becomes part of a subject
            return None
        found = await self._fabric.jetstream.last(SESSIONS, subjects.session(session_id, _STATE))
        stored = None if found is None else _session_of(session_id, found.body, found.sequence)
        return None if stored is None else self._learn(stored)

    def _learn(self, stored: Session) -> Session:
        """What is held here of a session, brought up to what is `stored`."""
        session = self._known.setdefault(stored.id, stored)
        if stored.sequence > session.sequence:
            for name in (*_STORED, "sequence"):
                setattr(session, name, getattr(stored, name))
            if session.ended:
                self._let_go(session)
                self._on_end(session.id)
        return session

    def _hold(self, session: Session) -> None:
        self._recent[session.id] = session
        self._recent.move_to_end(session.id)
        of_this = self._of.setdefault(session.principal, OrderedDict())
        of_this[session.id] = None
        of_this.move_to_end(session.id)
        if len(self._recent) > _MOST_HELD:
            self._let_go(next(iter(self._recent.values())))

    def _let_go(self, session: Session) -> None:
        self._recent.pop(session.id, None)
        if (of_this := self._of.get(session.principal)) is not None:
            of_this.pop(session.id, None)
            if not of_this:
                del self._of[session.principal]

    def _hear(self, message: Message) -> None:
        """Another gateway, or this one, has changed a session."""
        session_id = message.subject.split(".")[2]
        if session_id in self._known:
            told = _session_of(session_id, message.body, int(message.header(Header.SEQUENCE) or 0))
            if told is not None:
                self._learn(told)


def _session_of(session_id: str, body: Body, sequence: int) -> Session | None:
    try:
        said = {name: value for name, value in body.members().items() if name in _STORED}
        return Session(id=session_id, sequence=sequence, **said)
    except (ValueError, TypeError):
        return None  # not written by a gateway
