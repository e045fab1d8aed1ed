"""Both ends of one ordered, loss-free direction over a wire that may lose: pure bookkeeping.

Above: streams. Below: nothing. The sender keeps what the receiver has not confirmed and never runs further ahead of
what the receiver's code has taken than the window allows; so a reader that stops, stops the sender, and no memory
grows.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

F = TypeVar("F")

WINDOW: Final = 1024
"""Frames that may be on their way or unread."""
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Bytes of them; one frame is always allowed, however large."""

_NOTHING: Final = (-1, -1)


class Outgoing(Generic[F]):
    """What was sent, until it is known to have come."""

    def __init__(self) -> None:
        self.sent = 0
        """The last frame's number; they begin with 1."""
        self.received = 0
        """How far the other side says it has come."""
        self.taken = 0
        """How far the other side's code has read."""
        self._kept: deque[tuple[int, F]] = deque()
        self._sizes: deque[tuple[int, int]] = deque()
        self._unread = 0

    @property
    def has_room(self) -> bool:
        """Whether one more frame may be sent now."""
        return self.sent - self.taken < WINDOW and self._unread < WINDOW_BYTES

    def add(self, frame: F, size: int) -> int:
        """Keep a frame that is being sent; returns its number."""
        self.sent += 1
        self._kept.append((self.sent, frame))
        self._sizes.append((self.sent, size))
        self._unread += size
        return self.sent

    def confirm(self, received: int, taken: int) -> None:
        """Learn how far the other side is; what is older than known, or never was sent, changes nothing."""
        if not taken <= received <= self.sent:
            return
        self.received = max(self.received, received)
        self.taken = max(self.taken, taken)
        while self._kept and self._kept[0][0] <= self.received:
            self._kept.popleft()
        while self._sizes and self._sizes[0][0] <= self.taken:
            self._unread -= self._sizes.popleft()[1]

    def missing(self) -> list[tuple[int, F]]:
        """All frames that are not confirmed, oldest first."""
        return list(self._kept)


class Incoming(Generic[F]):
    """What came, in order and once, until the reader's code takes it."""

    def __init__(self) -> None:
        self.received = 0
        self.taken = 0
        self._told = (0, 0)
        self._asked = -1
        self.waiting: deque[tuple[F, int]] = deque()
        """Frames, each with its size, that nobody has taken."""
        self._untold = 0
        """Bytes taken that the sender does not know of."""

    def add(self, number: int, frame: F, size: int) -> bool:
        """Keep a frame if it is the next one, and tell whether it is."""
        if number <= self.received:
            self._told = _NOTHING  # or it would not have come again
        if number != self.received + 1 or len(self.waiting) > WINDOW + 1:  # as many, and the ends of both directions
            return False
        self.received = number
        self.waiting.append((frame, size))
        return True

    def asks(self, number: int) -> bool:
        """Whether to ask for what is missing before `number`: once for each gap, not for each frame behind it."""
        if number <= self.received + 1 or self._asked == self.received:
            return False
        self._asked = self.received
        return True

    def take(self) -> F:
        """The next frame."""
        self.taken += 1
        frame, size = self.waiting.popleft()
        self._untold += size
        return frame

    def is_due(self) -> bool:
        """Whether the sender should be told how far this is, or its window may run dry."""
        return self.taken - self._told[1] >= WINDOW // 4 or self._untold >= WINDOW_BYTES // 4

    def is_untold(self) -> bool:
        """Whether the sender does not know how far this is."""
        return self._told != (self.received, self.taken)

    def state(self) -> tuple[int, int]:
        """How far this is: received and taken; now told to the sender."""
        self._told = self.received, self.taken
        self._untold = 0
        return self._told
