"""What is kept of the requests of handshake sessions, so that any gateway goes on with them.

Above: `errands`. Below: the sessions' stream (ADR 10). For each request that needs it: what its agent has asked, with
the answers so far (an `Asking`), and a log of the messages that its client must not lose.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import SESSIONS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import StoredMessage

log = logging.getLogger(__name__)

KEPT: Final = 900.0
"""Seconds for which an errand waits for answers, and what was told is told again."""
_LOOK_AGAIN: Final = 5.0
"""Seconds after which whoever waits for a change looks by itself: what tells of changes may get lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A request whose agent has asked the client something, with all that is needed to go on with it."""

    owner: str
    """The gateway that goes on with it."""
    request: str
    """Its JSON-RPC id, as it was written."""
    method: str
    params: str
    agent: str
    """Who asks."""
    round: int
    """How often it has asked: a late answer to what was asked before is none to this."""
    requests: dict[str, Any]
    state: str | None
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    sequence: int = 0
    """The place of what is stored."""

    @property
    def complete(self) -> bool:
        """Whether all answers are there."""
        return self.answers.keys() >= self.requests.keys()


class Ledger:
    """Reads and writes it."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    async def asking(self, session_id: str, stream: str) -> Asking | None:
        """What the request that is answered by `stream` has asked."""
        found = await self._fabric.jetstream.last(SESSIONS, subjects.session(session_id, "call", stream))
        return None if found is None else _asking_of(found)

    async def open(self, session_id: str) -> AsyncGenerator[Asking]:
        """All that the requests of a session have asked, and go on with once it is answered."""
        async for found in self._fabric.jetstream.every(SESSIONS, subjects.session(session_id, "call", "*")):
            if (asking := _asking_of(found)) is not None:
                yield asking

    async def note(self, session_id: str, stream: str, asking: Asking) -> None:
        """Store what was asked; where it was read before, only if nobody has changed it since.

        Raises:
            WrongSequence: somebody has.
        """
        headers = {Header.ROLLUP: "sub"}
        if asking.sequence:
            headers[Header.EXPECTED] = str(asking.sequence)
        await self._store(subjects.session(session_id, "call", stream), Body(asdict(asking)), headers)

    async def forget(self, session_id: str, stream: str) -> None:
        """Remove what was asked: nobody shall go on with it."""
        with suppress(FabricError):
            await self._fabric.jetstream.purge(SESSIONS, subjects.session(session_id, "call", stream))

    async def keep(self, session_id: str, stream: str, message: bytes) -> int | None:
        """Keep a message for a client that comes back; returns its place, or `None` where it cannot be kept."""
        try:
            return await self._store(subjects.session(session_id, "event", stream), Body(encoded=message), {})
        except FabricError as failure:
            log.warning("an answer cannot be kept for a client that comes back: %s", failure)
            return None

    def kept(self, session_id: str, stream: str, *, after: int) -> AsyncGenerator[StoredMessage]:
        """The messages of a stream after a place."""
        return self._fabric.jetstream.every(SESSIONS, subjects.session(session_id, "event", stream), after=after)

    @asynccontextmanager
    async def watch(self, session_id: str, part: str, stream: str) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        """Yields what waits for the next change of the `call` or the `event`s of a stream, perhaps in vain."""
        stirred = asyncio.Event()

        async def changed() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await stirred.wait()
            stirred.clear()

        told = subjects.session_told(session_id, part, stream)
        hearing = await self._fabric.transport.subscribe(told, lambda _: stirred.set())
        try:
            yield changed
        finally:
            await hearing.close()

    async def _store(self, subject: str, body: Body, headers: dict[str, str]) -> int:
        return (await self._fabric.jetstream.store(subject, body, {Header.TTL: f"{int(KEPT)}s", **headers})).sequence


def _asking_of(found: StoredMessage) -> Asking | None:
    try:
        return replace(Asking(**found.body.members()), sequence=found.sequence)
    except (ValueError, TypeError):
        return None  # not written by a gateway
