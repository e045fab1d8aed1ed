"""Messages within one process: handed over as they are, never serialised (RT-1).

Above: the seam in `base`. Below: the event loop. A product feature, and the quick transport for tests.
Everything that holds a `MemoryTransport` instance is on the same bus.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.errors import TransportClosed
from fabric_sdk.contracts.subjects import Header, head
from fabric_sdk.transports.base import ConnectionListener, Receiver

log = logging.getLogger(__name__)

_NOBODY = {Header.STATUS: "503"}
_NONE: tuple[_Interest, ...] = ()


def matches(pattern: str, subject: str) -> bool:
    """Whether `subject` falls under `pattern`: `*` stands for one token, a last `>` for one or more."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
    elif len(wanted) != len(given):
        return False
    return all(want in ("*", have) for want, have in zip(wanted, given, strict=False))


class _Interest:
    __slots__ = ("bus", "depth", "prefix", "queue", "receiver", "shelf", "subject")

    def __init__(self, bus: MemoryTransport, subject: str, receiver: Receiver, queue: str) -> None:
        self.bus, self.subject, self.receiver, self.queue = bus, subject, receiver, queue
        tokens = subject.split(".")
        wild = next((at for at, token in enumerate(tokens) if token in ("*", ">")), None)
        self.shelf = head(subject) if wild is None or wild >= 3 else None
        # The usual pattern, one wildcard at the end, needs no splitting: the rest must follow `prefix`, and where
        # the wildcard is `*`, must have this many dots.
        last = wild is not None and wild == len(tokens) - 1
        self.prefix = subject[:-1] if last else None
        self.depth = wild if last and tokens[-1] == "*" else None

    def hears(self, subject: str) -> bool:
        if self.prefix is not None:
            return subject.startswith(self.prefix) and (self.depth is None or subject.count(".") == self.depth)
        return self.subject == subject or matches(self.subject, subject)

    def take(self, message: Message) -> None:
        try:
            self.receiver(message)
        except Exception:  # neither the publisher nor the other receivers have anything to do with it
            log.exception("receiving %s failed", message.subject)

    async def close(self) -> None:
        self.bus.forget(self)


class MemoryTransport:
    """The bus of one process. At most once, in order, nothing copied."""

    max_message = 1 << 62

    def __init__(self) -> None:
        # Interests by the first tokens of their subject, so that a publisher looks at few; under `None`, those with a
        # wildcard among these.
        self._shelves: dict[str | None, list[_Interest]] = {}
        self._alone: dict[str | None, _Interest] = {}
        """On whose shelf there is nobody else, and who hears all that belongs there: most agents, and all callers."""
        self._closed = False

    @property
    def connected(self) -> bool:
        return not self._closed

    async def publish(self, message: Message) -> None:
        if self._closed:
            raise TransportClosed("the in-process bus is closed")
        if not self._hand_over(message) and message.reply:
            self._hand_over(Message(message.reply, headers=_NOBODY))

    async def subscribe(self, subject: str, receiver: Receiver, *, queue: str = "") -> _Interest:
        if self._closed:
            raise TransportClosed("the in-process bus is closed")
        interest = _Interest(self, subject, receiver, queue)
        self._shelves.setdefault(interest.shelf, []).append(interest)
        self._look_who_is_alone(interest.shelf)
        return interest

    def forget(self, interest: _Interest) -> None:
        """Deliver nothing more to `interest`."""
        shelf = self._shelves.get(interest.shelf, [])
        if interest in shelf:
            shelf.remove(interest)
            if not shelf:
                del self._shelves[interest.shelf]
            self._look_who_is_alone(interest.shelf)

    async def flush(self) -> None:
        if self._closed:
            raise TransportClosed("the in-process bus is closed")

    def listen(self, listener: ConnectionListener) -> Callable[[], None]:
        """A bus within the process is never lost, so `listener` hears nothing."""
        return lambda: None

    async def close(self) -> None:
        self._closed = True
        self._shelves.clear()
        self._alone.clear()

    def _look_who_is_alone(self, shelf: str | None) -> None:
        interests = self._shelves.get(shelf, _NONE)
        if shelf is not None and len(interests) == 1 and interests[0].subject == f"{shelf}.>":
            self._alone[shelf] = interests[0]
        else:
            self._alone.pop(shelf, None)

    def _hand_over(self, message: Message) -> bool:
        """Give `message` to all who hear its subject; tell whether anybody did."""
        subject = message.subject
        shelf = head(subject)
        alone = self._alone.get(shelf)
        if alone is not None and len(subject) > len(shelf) and None not in self._shelves:
            alone.take(message)
            return True
        everybody = (*self._shelves.get(shelf, _NONE), *self._shelves.get(None, _NONE))
        hearing = [each for each in everybody if each.hears(subject)]
        groups: dict[str, list[_Interest]] = {}
        for interest in hearing:
            if interest.queue:
                groups.setdefault(interest.queue, []).append(interest)
            else:
                interest.take(message)
        for members in groups.values():
            random.choice(members).take(message)
        return bool(hearing)
