"""What holds of every policy, whatever its rules. Proves: SE-2, SE-6."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from policy.written import decide, said, source

from fabric.policy import Policy
from fabric.policy.cases import Somebody, checked_act
from fabric.policy.explain import explain
from fabric.policy.files import parse

ROLES: Final = {"boss": ["clerk"], "clerk": [], "guest": []}
CLOSED: Final = {role: frozenset((role, *includes)) for role, includes in ROLES.items()}
RANK: Final = {"deny": 0, "ask": 1, "allow": 2}
ACTS: Final = (
    "call shop/pay", "call shop/see", "call docs/pay", "read docs/file:///pub/a", "read docs/file:///pub/../a",
    "prompt shop/see", "publish orders.new", "publish stock", "subscribe orders.new", "subscribe orders.*",
    "subscribe >",
)  # fmt: skip


PROPERTY: Final = settings(deadline=None, max_examples=60)  # no deadline, as the machine may be busy


def some(values: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


PARTS: Final = {
    "roles": some(list(ROLES)),
    "scopes": some(["s", "t"]),
    "principals": some(["*", "ann", "b*"]),
    "agents": some(["*", "x1"]),
}
ON: Final = ["*/*", "shop/*", "*/pay", "docs/file:///pub/*", ">", "orders.*", "orders.new"]
VERBS: Final = {True: ["call", "read", "prompt"], False: ["publish", "subscribe"]}
WHEN: Final = [
    "arguments.n > 1",
    "principal == 'ann'",
    "'clerk' in roles",
    "arguments.m == 1",
    "arguments.l.all(x, x > 1)",
]


@st.composite
def rules(draw: st.DrawFn, effects: Sequence[str] = tuple(RANK), most: int = 6) -> list[dict[str, Any]]:
    """Some rules, without names."""
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, most))):
        who = draw(st.lists(st.sampled_from(list(PARTS)), min_size=1, max_size=2, unique=True))
        rule: dict[str, Any] = {part: draw(PARTS[part]) for part in who}
        rule |= {"on": draw(some(ON)), "then": draw(st.sampled_from(list(effects)))}
        if draw(st.booleans()):
            kinds = {"/" in pattern for pattern in rule["on"]}
            rule["verbs"] = [verb for kind in sorted(kinds) for verb in draw(some(VERBS[kind]))]
        if (when := draw(st.none() | st.sampled_from(WHEN))) is not None:
            rule["when"] = when
        if rule["then"] == "ask":
            rule["approvers"] = ["boss"]
        found.append(rule)
    return found


POLICIES: Final = rules().map(lambda found: [rule | {"name": f"r{at}"} for at, rule in enumerate(found)])
ASKERS: Final = st.builds(
    Somebody,
    st.sampled_from(("ann", "bob", "cid")),
    st.none() | st.sampled_from(("x1", "x2")),
    st.frozensets(st.sampled_from((*ROLES, "stranger")), max_size=2),
    st.frozensets(st.sampled_from("st")),
)
ARGUMENTS: Final = st.sampled_from(({}, {"n": 1}, {"n": 2, "m": 1}, {"n": "2", "l": [2, 3]}, {"l": [1], "m": 2}))


def policy(*parts: Sequence[dict[str, Any]]) -> Policy:
    """A policy whose rules stand in so many files."""
    files = [source({"rules": part}, f"{at}.yaml") for at, part in enumerate(parts)]
    return parse([*files, source({"roles": ROLES}, "roles.yaml")])


@PROPERTY
@given(POLICIES, rules(effects=("deny",), most=1), ASKERS, st.sampled_from(ACTS), ARGUMENTS)
def test_one_more_rule_that_denies_never_allows_more(
    some: list[dict[str, Any]], one: list[dict[str, Any]], who: Somebody, does: str, arguments: Any
) -> None:
    before, after = policy(some), policy(some, [one[0] | {"name": "more"}])
    assert RANK[decide(after, who, does, arguments).effect] <= RANK[decide(before, who, does, arguments).effect]
    act = checked_act(*does.split(" ", 1))
    assert after.standing(who).may(*act) <= before.standing(who).may(*act)


@PROPERTY
@given(POLICIES, rules(effects=("allow",), most=1), ASKERS, st.sampled_from(ACTS), ARGUMENTS)
def test_one_more_rule_that_allows_never_denies_more(
    some: list[dict[str, Any]], one: list[dict[str, Any]], who: Somebody, does: str, arguments: Any
) -> None:
    before, after = policy(some), policy(some, [one[0] | {"name": "more"}])
    assert RANK[decide(after, who, does, arguments).effect] >= RANK[decide(before, who, does, arguments).effect]


@PROPERTY
@given(POLICIES, st.randoms(use_true_random=False), ASKERS, st.sampled_from(ACTS), ARGUMENTS)
def test_order_of_rules_and_files_makes_no_difference(
    some: list[dict[str, Any]], chance: random.Random, who: Somebody, does: str, arguments: Any
) -> None:
    shuffled = chance.sample(some, len(some))
    cut = chance.randrange(len(some) + 1)
    other = policy(shuffled[cut:], shuffled[:cut])
    assert said(decide(other, who, does, arguments)) == said(decide(policy(some), who, does, arguments))


@PROPERTY
@given(POLICIES, ASKERS, st.sampled_from(ACTS), ARGUMENTS)
def test_what_is_allowed_or_asked_for_is_shown(
    some: list[dict[str, Any]], who: Somebody, does: str, arguments: Any
) -> None:
    held = policy(some)
    if decide(held, who, does, arguments).effect != "deny":
        assert held.standing(who).may(*checked_act(*does.split(" ", 1)))


@PROPERTY
@given(POLICIES, st.lists(ASKERS, min_size=1, max_size=2), st.permutations(ACTS), ARGUMENTS)
def test_what_is_remembered_changes_nothing(
    some: list[dict[str, Any]], askers: list[Somebody], acts: list[str], arguments: Any
) -> None:
    held = policy(some)
    for who in askers:
        fresh = {does: said(decide(Policy(held.rules, CLOSED), who, does, arguments)) for does in acts}
        for does in acts + acts:
            assert said(decide(held, who, does, arguments)) == fresh[does]


@PROPERTY
@given(POLICIES, ASKERS, st.sampled_from(ACTS), ARGUMENTS)
def test_with_the_scopes_that_it_needs_it_is_not_denied(
    some: list[dict[str, Any]], who: Somebody, does: str, arguments: Any
) -> None:
    held = policy(some)
    decision = decide(held, who, does, arguments)
    if decision.needs_scopes:
        assert (decision.effect, decision.rule) == ("deny", None)
        stepped_up = Somebody(who.principal, who.agent, who.roles, who.scopes.union(decision.needs_scopes))
        assert decide(held, stepped_up, does, arguments).effect != "deny"


@PROPERTY
@given(POLICIES, ASKERS, st.sampled_from(ACTS), ARGUMENTS)
def test_an_explanation_is_of_the_decision_itself(
    some: list[dict[str, Any]], who: Somebody, does: str, arguments: Any
) -> None:
    held = policy(some)
    decision = decide(held, who, does, arguments)
    explained = explain(held, who, checked_act(*does.split(" ", 1)), arguments)
    assert said(explained.decision) == said(decision)
    assert {finding.rule.name for finding in explained.findings} == {rule["name"] for rule in some}
    deciding = [finding.rule.name for finding in explained.findings if finding.outcome == "decides"]
    assert deciding == ([decision.rule.name] if decision.rule else [])
    met = [finding.rule.effect for finding in explained.findings if finding.outcome in ("decides", "loses")]
    if "/.." not in does:
        assert decision.effect == min(met, key=RANK.__getitem__, default="deny")
