"""N gateways at times that the tests make up, with a ledger that does what `spend.lua` does: how much is too much.

The bound of docs/limits.md: in any stretch of time all gateways together let through at most what the rate gives in it,
and N * (burst + rate * D), where D is the time from a call to the answer that tells of it; of a day's calls at most
(N - 1) * (burst + rate * D) too many. tests/registry/test_spending.py compares the ledger of this world with Redis.

Proves: GW-8, SE-6 (exact to within a stated bound over N replicas).
"""

from __future__ import annotations

import heapq
import random
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.limits.limiter import Limiter
from fabric.limits.rules import Rule
from fabric.limits.spending import Standing
from limits.helpers import NOON, limiter, most_above, take
from limits.ledger import Ledger

INTERVAL = 0.2


class World:
    """Gateways that exchange every `INTERVAL` over a network that takes `delay` each way."""

    def __init__(self, rule: Rule, gateways: int, *, delay: float = 0.0, seed: int = 0) -> None:
        self.now = 1000.0
        self.let_through: list[float] = []
        self.refused = 0
        self.away = False
        self.loses_answers = False
        self.ledger = Ledger()
        self._rule = rule
        self._delay = delay
        self._order = count()
        self._due: list[tuple[float, int, int, str]] = []
        self._gateways: list[Limiter] = []
        self._names: list[str] = []
        self._starts = count()
        self._random = random.Random(seed)
        self._answers: dict[int, tuple[Limiter, list[Standing]]] = {}
        for number in range(gateways):
            self._gateways.append(self._new())
            self._names.append(f"{next(self._starts)}")
            self._at(self.now + INTERVAL * self._random.random(), number, "tell")

    @property
    def slowest(self) -> float:
        """D: the longest time from a call to the answer that tells of it."""
        return INTERVAL + 4 * self._delay

    def until(self, then: float) -> None:
        """Let time pass, and with it what the gateways do by themselves."""
        while self._due and self._due[0][0] <= then:
            self.now, _, number, what = heapq.heappop(self._due)
            getattr(self, what)(number)
        self.now = then

    def call(self, number: int) -> bool:
        """One call at one gateway."""
        passed = take(self._gateways[number], self.now)
        self.refused += not passed
        if passed:
            self.let_through.append(self.now)
        return passed

    def restart(self, number: int) -> None:
        """A gateway ends without a word, and a new one takes its place."""
        self._gateways[number] = self._new()
        self._names[number] = f"{next(self._starts)}"

    def tell(self, number: int) -> None:
        gateway = self._gateways[number]
        gateway.tick(self.now, NOON + self.now)
        sent = gateway.report(self.now)
        if sent is not None and not self.away:
            self._at(self.now + self._delay, number, "reach")
        else:
            self._at(self.now + INTERVAL, number, "tell")

    def reach(self, number: int) -> None:
        gateway = self._gateways[number]
        sent = gateway.report(self.now)
        if sent is None:  # it has been restarted on the way
            self._at(self.now + INTERVAL, number, "tell")
            return
        standings = self.ledger.spend(self._names[number], sent.number, sent.spent, self.now)
        if self.loses_answers and self._random.random() < 0.5:
            self._at(self.now + INTERVAL, number, "tell")
        else:
            self._answers[number] = gateway, standings
            self._at(self.now + self._delay, number, "settle")

    def settle(self, number: int) -> None:
        gateway, standings = self._answers.pop(number)
        gateway.settle(standings)
        self._at(self.now + INTERVAL, number, "tell")

    def _new(self) -> Limiter:
        return limiter(self._rule, now=self.now, unix=NOON + self.now)

    def _at(self, when: float, number: int, what: str) -> None:
        heapq.heappush(self._due, (when, next(self._order), number, what))


def saturate(world: World, gateways: int, seconds: float, *, step: float = 0.01) -> None:
    """Everybody asks all the time."""
    end = world.now + seconds
    while world.now < end:
        world.until(world.now + step)
        for number in range(gateways):
            while world.call(number):
                pass


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.sampled_from([1.0, 20.0, 100.0]),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.001, 0.05]),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.1, 0.19, 0.3, 1.0, 3.0]), st.integers(0, 3), st.integers(1, 60)),
        max_size=60,
    ),
    st.integers(0, 100),
)
def test_no_stretch_of_time_has_more_than_the_bound(
    gateways: int, rate: float, burst: int, delay: float, asked: list[tuple[float, int, int]], seed: int
) -> None:
    world = World(Rule("r", "client", rate, burst), gateways, delay=delay, seed=seed)
    for pause, number, calls in asked:
        world.until(world.now + pause)
        for _ in range(calls):
            world.call(number % gateways)
    assert most_above(world.let_through, rate) <= gateways * (burst + rate * world.slowest) + 0.1


@pytest.mark.parametrize("burst", [1, 10, 200])
def test_together_they_keep_to_the_rate_however_long_it_takes_and_use_all_of_it(burst: int) -> None:
    gateways, rate, seconds = 4, 100.0, 60.0
    world = World(Rule("r", "client", rate, burst), gateways, delay=0.002)
    saturate(world, gateways, seconds)
    too_many = len(world.let_through) - rate * seconds
    assert too_many <= gateways * (burst + rate * world.slowest)
    assert too_many >= -rate * world.slowest


def test_without_the_exchange_each_would_let_through_the_whole_rate() -> None:
    world = World(Rule("r", "client", 100.0, 10), 4)
    world.away = True
    saturate(world, 4, 10.0)
    assert len(world.let_through) == pytest.approx(4 * 1010, abs=8)


@pytest.mark.parametrize(("gateways", "burst"), [(1, 3), (4, 10), (4, 100)])
def test_who_keeps_to_the_rate_is_never_refused(gateways: int, burst: int) -> None:
    rate = 100.0
    world = World(Rule("r", "client", rate, burst), gateways, delay=0.005)
    for turn in range(3000):
        world.until(world.now + 1 / (0.8 * rate))
        world.call(turn % gateways)
    assert world.refused == 0


def test_after_an_outage_nobody_pays_for_what_was_let_through_in_it() -> None:
    gateways, rate, burst = 3, 100.0, 20
    world = World(Rule("r", "client", rate, burst), gateways)
    world.away = True
    saturate(world, gateways, 60.0)
    world.away = False
    back, before = world.now, len(world.let_through)
    while not any(world.call(number) for number in range(gateways)):
        world.until(world.now + 0.01)
    saturate(world, gateways, 30.0)
    # Each told of a second and a burst at most; that is what is paid for.
    assert len(world.let_through) - before >= rate * (world.now - back) - 2 * gateways * (burst + rate)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.sampled_from([5.0, 50.0]),
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.25, 1.0]), st.integers(0, 3), st.integers(1, 40)), max_size=60),
    st.sets(st.integers(0, 59), max_size=3),
    st.booleans(),
)
def test_a_day_has_no_more_calls_than_the_bound_whoever_is_restarted_and_whatever_is_lost(
    gateways: int, rate: float, burst: int, asked: list[tuple[float, int, int]], restarts: set[int], loses: bool
) -> None:
    daily = 100
    world = World(Rule("r", "client", rate, burst, daily=daily), gateways)
    started = gateways
    for turn, (pause, number, calls) in enumerate(asked):
        world.loses_answers = loses
        world.until(world.now + pause)
        if turn in restarts:
            world.restart(number % gateways)
            started += 1
        for _ in range(calls):
            world.call(number % gateways)
    slowest = world.slowest * (10 if loses else 1)
    assert len(world.let_through) <= daily + (started - 1) * (burst + rate * slowest) + 0.1


def test_a_day_is_used_up_to_the_last_call_also_when_answers_are_lost() -> None:
    world = World(Rule("r", "client", 50.0, 5, daily=200), 2)
    world.loses_answers = True
    for _ in range(400):
        world.until(world.now + 0.1)
        world.call(0)
    world.loses_answers = False
    world.until(world.now + 1.0)
    assert len(world.let_through) == 200
    world.restart(0)
    world.restart(1)
    assert world.call(0), "it cannot know yet, …"
    world.until(world.now + 2 * INTERVAL)
    assert not world.call(0), "… and does after one exchange"


def test_a_ledger_that_lost_everything_learns_the_day_from_the_gateways() -> None:
    world = World(Rule("r", "client", 50.0, 5, daily=100), 2)
    for turn in range(90):
        world.until(world.now + 0.1)
        assert world.call(turn % 2)
    world.until(world.now + 1.0)
    world.ledger = Ledger()
    for turn in range(20):
        world.until(world.now + 0.5)
        world.call(turn % 2)
    # One that had not used the limit lately knows less than Redis did; by itself, each would let through 10 more.
    assert 100 <= len(world.let_through) <= 103


def test_at_midnight_the_new_day_begins_with_nothing_of_the_old() -> None:
    rule = Rule("r", "client", 100.0, 50, daily=30)
    world = World(rule, 2)
    to_midnight = 43_200 - 1000.0
    world.until(world.now + to_midnight - 0.1)
    assert sum(world.call(0) for _ in range(40)) == 30
    world.until(world.now + 0.5)
    assert sum(world.call(turn % 2) for turn in range(60)) in range(30, 61)
    world.until(world.now + 1.0)
    assert not world.call(0)
    assert not world.call(1)
