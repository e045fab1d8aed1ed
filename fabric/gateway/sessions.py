"""Sessions of the handshake revisions: kept by the broker, so that any gateway goes on with any.

Above: `legacy`. Below: one JetStream stream. A gateway holds copies of those it serves, and hears when another changes
one. A session belongs to the principal that opened it; to all others there is none of this id.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final
from uuid import uuid4

from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import SESSIONS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import WrongSequence

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 86_400.0
"""After so long without a request a session is forgotten."""
_MOST_HELD: Final = 20_000
_STATE: Final = "state"


@dataclass(slots=True, kw_only=True)
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


_FIELDS: Final = {each.name for each in fields(Session)} - {"id", "sequence"}


class Sessions:
    """All sessions, as one gateway sees them."""

    def __init__(self, fabric: Fabric, on_end: Callable[[str], None]) -> None:
        self._fabric = fabric
        self._on_end = on_end
        self._held: OrderedDict[str, Session] = OrderedDict()

    async def run(self) -> None:
        """Begin to hear what other gateways change."""
        await self._fabric.transport.subscribe(subjects.session_told("*", _STATE), self._hear)

    async def open(self, principal: str, version: str, capabilities: dict[str, Any]) -> Session:
        """A new session.

        Raises:
            QueueFull, TransportUnavailable: it cannot be kept now.
        """
        session = Session(id=uuid4().hex, principal=principal, version=version, capabilities=capabilities)
        await self._write(session)
        self._hold(session)
        return session

    async def find(self, session_id: str, principal: str) -> Session | None:
        """The session of this id, if it is this principal's and has not ended."""
        session = self._held.get(session_id) or await self._read(session_id)
        if session is None or session.ended or session.principal != principal:
            return None
        self._held.move_to_end(session_id)
        if session.touched < time.time() - IDLE_SECONDS / 4:
            await self.change(session, lambda _: None)
        return session

    async def change(self, session: Session, how: Callable[[Session], None]) -> None:
        """Change a session, whichever gateway changes it at the same time."""
        while True:
            how(session)
            try:
                await self._write(session)
            except WrongSequence:
                self._held.pop(session.id, None)
                if (newer := await self._read(session.id)) is None:
                    return
                session = newer
            else:
                return

    async def end(self, session: Session) -> None:
        """End a session, at every gateway."""

        def over(session: Session) -> None:
            session.ended, session.uris = True, []

        await self.change(session, over)
        self._held.pop(session.id, None)
        self._on_end(session.id)

    async def _write(self, session: Session) -> None:
        session.touched = time.time()
        headers = {Header.EXPECTED: str(session.sequence), Header.TTL: f"{int(IDLE_SECONDS)}s"}
        headers[Header.ROLLUP] = "sub"
        stored = {name: value for name, value in asdict(session).items() if name in _FIELDS}
        await self._fabric.jetstream.ensure(SESSIONS)
        subject = subjects.session(session.id, _STATE)
        session.sequence = (await self._fabric.jetstream.store(subject, Body(stored), headers)).sequence

    async def _read(self, session_id: str) -> Session | None:
        if not session_id.isalnum() or len(session_id) > 64:  # it becomes part of a subject
            return None
        try:
            await self._fabric.jetstream.ensure(SESSIONS)
            found = await self._fabric.jetstream.last(SESSIONS, subjects.session(session_id, _STATE))
        except FabricError as failure:
            log.warning("a session cannot be looked up: %s", failure)
            raise
        if found is None:
            return None
        session = _session_of(session_id, found.body)
        if session is not None:
            session.sequence = found.sequence
            self._hold(session)
        return session

    def _hold(self, session: Session) -> None:
        self._held[session.id] = session
        while len(self._held) > _MOST_HELD:
            self._held.popitem(last=False)

    def _hear(self, message: Message) -> None:
        """Another gateway, or this one, has changed a session."""
        session_id = message.subject.split(".")[2]
        if (held := self._held.get(session_id)) is None:
            return
        sequence = int(message.header(Header.SEQUENCE) or 0)
        told = _session_of(session_id, message.body)
        if told is None or sequence <= held.sequence:
            return
        for name in _FIELDS:
            setattr(held, name, getattr(told, name))
        held.sequence = sequence
        if held.ended:
            del self._held[session_id]
            self._on_end(session_id)


def _session_of(session_id: str, body: Body) -> Session | None:
    try:
        said = body.members()
        return Session(id=session_id, **{name: value for name, value in said.items() if name in _FIELDS})
    except (ValueError, TypeError):
        return None  # not written by a gateway
