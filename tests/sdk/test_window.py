"""The window: nothing lost, repeated or reordered over any wire, and never more kept than it allows.

Proves: PT-4.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fabric_sdk.routing import window
from fabric_sdk.routing.window import Incoming, Outgoing

SMALL = 8
SMALL_BYTES = 40
LARGEST = 60


class Wire(RuleBasedStateMachine):
    """Two ends, and between them a wire that loses, repeats and reorders as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(window, "WINDOW", SMALL)
        self.patch.setattr(window, "WINDOW_BYTES", SMALL_BYTES)
        self.out, self.into = Outgoing[int](), Incoming[int]()
        self.frames: list[tuple[int, int]] = []
        self.states: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.taken: list[int] = []

    def teardown(self) -> None:
        """A wire that is mended brings all there is."""
        self.frames, self.states = self.out.missing(), []
        for number, frame in self.frames:
            self.into.add(number, frame, self.sizes[frame])
        while self.into.waiting:
            self.taken.append(self.into.take())
        self.out.confirm(*self.into.state())
        assert self.taken == list(range(len(self.sizes)))
        assert self.out.missing() == []
        assert self.out.has_room
        self.patch.undo()

    @precondition(lambda self: self.out.has_room)
    @rule(size=st.integers(0, LARGEST))
    def send(self, size: int) -> None:
        frame = len(self.sizes)
        self.sizes.append(size)
        self.frames.append((self.out.add(frame, size), frame))

    @rule()
    def send_again(self) -> None:
        self.frames += self.out.missing()

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), stays=st.booleans(), arrives=st.booleans())
    def carry(self, data: st.DataObject, stays: bool, arrives: bool) -> None:
        at = data.draw(st.integers(0, len(self.frames) - 1))
        number, frame = self.frames[at] if stays else self.frames.pop(at)
        if arrives:
            expected = number == self.into.received + 1
            assert self.into.add(number, frame, self.sizes[frame]) == expected

    @precondition(lambda self: len(self.into.waiting) > 0)
    @rule()
    def take(self) -> None:
        self.taken.append(self.into.take())

    @rule()
    def tell(self) -> None:
        self.states.append(self.into.state())
        assert not self.into.is_untold()

    @precondition(lambda self: self.states)
    @rule(data=st.data(), stays=st.booleans(), arrives=st.booleans())
    def carry_back(self, data: st.DataObject, stays: bool, arrives: bool) -> None:
        at = data.draw(st.integers(0, len(self.states) - 1))
        state = self.states[at] if stays else self.states.pop(at)
        if arrives:
            self.out.confirm(*state)

    @rule(beyond=st.integers(1, 10**15), taken=st.integers(0, 10**15))
    def hear_what_cannot_be(self, beyond: int, taken: int) -> None:
        self.out.confirm(self.out.sent + beyond, taken)
        self.out.confirm(self.out.sent, self.out.sent + beyond)
        assert not self.into.add(self.into.received + 1 + beyond, -1, 1)
        assert not self.into.add(0, -1, 1)

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        assert self.taken == list(range(len(self.taken)))
        assert self.out.taken <= len(self.taken)
        assert self.out.received <= self.into.received <= self.out.sent

    @invariant()
    def memory_stays_within_the_window(self) -> None:
        assert len(self.into.waiting) <= SMALL
        assert len(self.out.missing()) <= SMALL
        for unread in (self.sizes[len(self.taken) :], self.sizes[self.out.received :]):
            assert sum(unread) < SMALL_BYTES + LARGEST


TestWire = Wire.TestCase
TestWire.settings = settings(max_examples=150, stateful_step_count=60, deadline=None, database=None)


def test_what_is_missing_is_asked_for_once() -> None:
    into = Incoming[str]()
    assert [into.add(number, "early", 1) for number in (3, 4, 5)] == [False] * 3
    assert [into.asks(number) for number in (3, 4, 5)] == [True, False, False]
    assert into.add(1, "first", 1)
    assert not into.add(3, "early", 1)
    assert [into.asks(number) for number in (1, 3, 4)] == [False, True, False]


def test_what_comes_again_is_confirmed_again() -> None:
    into = Incoming[str]()
    into.add(1, "first", 1)
    into.state()
    assert not into.is_untold()
    assert not into.add(1, "first", 1)
    assert into.is_untold(), "or the sender would not have sent it twice"


def test_whoever_does_not_keep_to_the_window_is_not_kept() -> None:
    into = Incoming[int]()
    kept = [into.add(number, number, 1) for number in range(1, 10 * window.WINDOW)]
    assert len(into.waiting) == kept.count(True) == window.WINDOW + 2
    assert [into.take() for _ in range(len(into.waiting))] == list(range(1, window.WINDOW + 3))


def test_the_sender_is_told_before_its_window_runs_dry() -> None:
    into, told = Incoming[int](), list[int]()
    for number in range(1, 2 * window.WINDOW + 1):
        into.add(number, number, 1)
        into.take()
        if into.is_due():
            told.append(into.state()[1])
    assert told == list(range(window.WINDOW // 4, 2 * window.WINDOW + 1, window.WINDOW // 4))


def test_the_sender_of_large_frames_is_told_sooner() -> None:
    into, out = Incoming[int](), Outgoing[int]()
    size, told = window.WINDOW_BYTES // 8, 0
    for number in range(100):
        assert out.has_room
        into.add(out.add(number, size), number, size)
        into.take()
        if into.is_due():
            out.confirm(*into.state())
            told += 1
    assert told == 50


def test_one_frame_is_allowed_however_large() -> None:
    out = Outgoing[str]()
    assert out.add("huge", 10 * window.WINDOW_BYTES) == 1
    assert not out.has_room
    out.confirm(1, 0)
    assert not out.has_room, "it came, but nobody has read it"
    assert out.missing() == []
    out.confirm(1, 1)
    assert out.has_room
