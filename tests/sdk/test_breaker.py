"""When nobody waits for an agent any more, and when they do again. Proves: CM-4, PT-1."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fabric_sdk.routing.breaker import OPEN_AFTER, TRY_SECONDS, Breakers

AGENTS = st.sampled_from(["reader", "writer"])


class Callers(RuleBasedStateMachine):
    """Calls of two agents, beside what a breaker is to do, said in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.breakers, self.now = Breakers(), 0.0
        self.in_vain = {"reader": 0, "writer": 0}
        self.tried = dict.fromkeys(self.in_vain, 0.0)

    @rule(seconds=st.floats(0.01, 3 * TRY_SECONDS))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(agent=AGENTS)
    def one_waits_in_vain(self, agent: str) -> None:
        opens = self.breakers.waited_in_vain(agent, self.now)
        self.in_vain[agent] += 1
        assert opens == (self.in_vain[agent] == OPEN_AFTER)
        if opens:
            self.tried[agent] = self.now

    @rule(agent=AGENTS)
    def one_is_taken(self, agent: str) -> None:
        assert self.breakers.taken(agent) == (self.in_vain[agent] >= OPEN_AFTER)
        self.in_vain[agent] = 0

    @rule(agent=AGENTS)
    def one_is_made(self, agent: str) -> None:
        is_open = self.in_vain[agent] >= OPEN_AFTER
        may_try = self.now >= self.tried[agent] + TRY_SECONDS
        assert self.breakers.refuse(agent, self.now) == (is_open and not may_try)
        if is_open and may_try:
            self.tried[agent] = self.now

    @precondition(lambda self: not any(self.in_vain.values()))
    @invariant()
    def there_is_nothing_to_look_at_while_all_is_well(self) -> None:
        assert not self.breakers

    @invariant()
    def whoever_is_not_waited_for_is_named(self) -> None:
        assert set(self.breakers.open) == {agent for agent, times in self.in_vain.items() if times >= OPEN_AFTER}


TestCallers = Callers.TestCase


@given(st.lists(st.integers(0, 2000), max_size=3000))
def test_names_that_callers_make_up_take_no_room(numbers: list[int]) -> None:
    breakers = Breakers()
    for number in numbers:
        breakers.waited_in_vain(f"made-up-{number}", 0.0)
    assert len(breakers) <= 500
