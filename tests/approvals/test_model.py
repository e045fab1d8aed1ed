"""What answers make of questions, without any clock or server. Proves: GW-3, SE-2."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fabric.approvals.model import (
    MOST_ARGUMENTS,
    REMEMBERED,
    Answer,
    Approval,
    answered,
    expired,
    grant_key,
    grant_of,
    joins,
    mark_of,
    question,
)
from fabric.policy.condition import Condition
from fabric.policy.matching import Where
from fabric.policy.model import Ask, Rule, Who
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.contracts.scope import Scope, roles_in
from fabric_sdk.contracts.subjects import Header

ACT = ("shop", "tools/call", "refund")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def asks(when: str | None = None, *, approvers: tuple[str, ...] = ("manager",), by_asker: bool = False) -> Rule:
    condition = Condition(when) if when else None
    ask = Ask(frozenset(approvers), by_asker, 100.0)
    return Rule("large", "ask", Who(), frozenset({"call"}), Where(), condition, ask)


class Question(RuleBasedStateMachine):
    """One question under answers, repetitions, sweeps and time in any order."""

    @initialize(task=st.sampled_from(["", "t"]))
    def asked(self, task: str) -> None:
        self.now = 1000.0
        self.approval = question(asks(), "ann", ACT, {"amount": 5}, self.now, task=task)
        self.decision: tuple[str, str] | None = None

    @rule(seconds=st.floats(0.0, 60.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(answer=st.sampled_from(["granted", "refused"]), by=st.sampled_from(["mia", "max"]), remember=st.booleans())
    def somebody_answers(self, answer: Answer, by: str, remember: bool) -> None:
        before = self.approval
        remember = remember and answer == "granted"
        try:
            self.approval = answered(before, answer, by, self.now, remember=remember)
        except InvalidParams:
            late = before.state == "waiting" and self.now >= before.expires
            other = before.state not in ("waiting", answer)
            assert late or other or (remember and not before.remember)
            return
        if before.state == "waiting":
            assert self.now < before.expires
            self.decision = (answer, by)
        else:
            assert self.approval is before

    @rule()
    def a_sweep_looks(self) -> None:
        before, self.approval = self.approval, expired(self.approval, self.now)
        if self.approval is not before:
            assert self.now >= before.expires
            self.decision = ("expired", "")

    @rule()
    def what_follows_is_done(self) -> None:
        if self.approval.state != "waiting":
            self.approval = self.approval.model_copy(update={"settled": True})

    @rule()
    def whoever_asked_hears(self) -> None:
        self.approval = self.approval.model_copy(update={"heard": True})

    @invariant()
    def it_is_decided_once(self) -> None:
        decided = None if self.approval.state == "waiting" else (self.approval.state, self.approval.by)
        assert decided == self.decision

    @invariant()
    def no_leave_is_used_twice_and_no_task_left_behind(self) -> None:
        each, joined = self.approval, joins(self.approval, self.now)
        if each.state == "granted" and each.heard and each.settled:
            assert not joined
        if each.state == "waiting" or (each.task and not each.settled):
            assert joined


TestQuestion = Question.TestCase


@given(JSON, JSON)
def test_the_same_call_has_the_same_key_and_no_other_has(one: Any, other: Any) -> None:
    first, again = (question(asks(), "ann", ACT, one, 0.0) for _ in range(2))
    assert first.key == again.key
    assert first.id != again.id
    assert (first.key == question(asks(), "ann", ACT, other, 0.0).key) is (_told_apart(one) == _told_apart(other))


def _told_apart(value: Any) -> Any:
    """A value in which true is not 1, and the order of names says nothing."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {name: _told_apart(each) for name, each in members.items()}
    if isinstance(value, list):
        return [_told_apart(each) for each in cast("list[Any]", value)]
    return (type(value), value)


@pytest.mark.parametrize(
    "other",
    [
        question(asks(), "bob", ACT, {"a": 1}, 0.0),
        question(asks(), "ann", ("shop", "tools/call", "order"), {"a": 1}, 0.0),
        question(asks(), "ann", ("shop", "prompts/get", "refund"), {"a": 1}, 0.0),
        question(asks("arguments.a > 0"), "ann", ACT, {"a": 1}, 0.0),
        question(asks(approvers=("clerk",)), "ann", ACT, {"a": 1}, 0.0),
    ],
    ids=["principal", "tool", "method", "condition", "approvers"],
)
def test_another_call_is_another_question(other: Approval) -> None:
    assert question(asks(), "ann", ACT, {"a": 1}, 0.0).key != other.key


def test_the_order_of_arguments_makes_no_difference_and_many_are_cut() -> None:
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert question(asks(), "ann", ACT, one, 0.0).key == question(asks(), "ann", ACT, other, 0.0).key
    long = question(asks(), "ann", ACT, {"a": "ä" * MOST_ARGUMENTS}, 0.0)
    assert (len(long.arguments), long.whole) == (MOST_ARGUMENTS, False)
    assert question(asks(), "ann", ACT, {"a": "x"}, 0.0).whole
    assert question(asks(), "ann", ACT, {"a": "\ud800" + "1" * 30}, 0.0).arguments.isprintable()


def test_a_grant_is_good_under_the_very_rule_it_was_given_under() -> None:
    mark = mark_of(asks("arguments.amount > 100"))
    assert mark == mark_of(asks("arguments.amount > 100"))
    assert mark != mark_of(asks("arguments.amount > 10"))
    assert mark != mark_of(asks("arguments.amount > 100", by_asker=True))
    granted = answered(question(asks(), "ann", ACT, None, 0.0), "granted", "mia", 50.0, remember=True)
    grant = grant_of(granted)
    assert (grant.expires, grant.by) == (50.0 + REMEMBERED, "mia")
    assert grant.id == grant_key("ann", "shop", "tools/call", "refund", mark_of(asks()))


@given(st.frozensets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=4))
def test_roles_travel_whatever_an_issuer_calls_them(roles: frozenset[str]) -> None:
    header = Scope(0.0, "ann", None, roles).headers().get(Header.ROLES)
    assert header is None or (header.isascii() and header.isprintable())
    assert roles_in(header) == roles
