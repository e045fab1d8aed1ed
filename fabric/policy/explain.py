"""Why a policy decides as it does: what became of each rule.

Above: `cases`, `fabric policy explain`, the agent `access`. Below: `decisions`, which decides here as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fabric.policy.condition import ConditionFailed
from fabric.policy.decisions import Policy, reaching
from fabric.policy.matching import Verb, is_evasive
from fabric.policy.model import Asker, Decision, Facts, Rule

Outcome = Literal["decides", "loses", "is not met", "needs a scope", "is about others", "is about something else"]


class Act(NamedTuple):
    """What somebody does."""

    verb: Verb
    agent: str
    """Empty for topics."""
    name: str

    def __str__(self) -> str:
        return f"{self.verb} {self.agent}/{self.name}" if self.agent else f"{self.verb} {self.name}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one rule."""

    rule: Rule
    outcome: Outcome
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and what became of each rule, the strongest first."""

    decision: Decision
    why: str
    findings: tuple[Finding, ...]

    def told(self) -> dict[str, Any]:
        """As JSON."""
        decision = self.decision
        return {
            "effect": decision.effect,
            "rule": decision.rule and decision.rule.name,
            "why": self.why,
            "needs_scopes": list(decision.needs_scopes),
            "rules": [
                {
                    "name": each.rule.name,
                    "then": each.rule.effect,
                    "place": each.rule.place,
                    "outcome": each.outcome,
                    "why": each.why,
                }
                for each in self.findings
            ],
        }


def explain(policy: Policy, asker: Asker, act: Act, arguments: Any) -> Explanation:
    """Decide, and tell why."""
    facts = policy.facts(asker, arguments)
    decision = policy.standing(asker).decide(*act, lambda: facts)
    about = reaching(policy.rules, *act)
    named = {rule.name for rule in about}
    findings = [_finding(rule, asker, act, facts, decision) for rule in about]
    findings += [
        Finding(rule, "is about something else", f"not about {act}") for rule in policy.rules if rule.name not in named
    ]
    return Explanation(decision, _why(decision, act), tuple(findings))


def _why(decision: Decision, act: Act) -> str:
    if decision.rule is not None:
        return f"by rule {decision.rule.name}, {decision.rule.place}"
    if decision.needs_scopes:
        return f"for want of a scope: {', '.join(decision.needs_scopes)}"
    if act.verb == "read" and is_evasive(act.name):
        return "as the URI has . or .. in its path"
    return "as no rule allows it"


def _finding(rule: Rule, asker: Asker, act: Act, facts: Facts, decision: Decision) -> Finding:
    if part := rule.who.misfit(asker.principal, asker.agent, facts.roles):
        return Finding(rule, "is about others", f"its {part} do not fit")
    if rule.who.lacks_scope(asker.scopes):
        return Finding(rule, "needs a scope", f"one of {', '.join(sorted(rule.who.scopes))}")
    values = facts.about(act.agent, act.name)
    if not rule.applies(values):
        return Finding(rule, "is not met", _condition(rule, values))
    decides = decision.rule is not None and decision.rule.name == rule.name
    return Finding(rule, "decides" if decides else "loses", _condition(rule, values))


def _condition(rule: Rule, values: Mapping[str, Any]) -> str:
    if rule.when is None:
        return "it has no condition"
    try:
        return f"{rule.when.source} is {'true' if rule.when.met(values) else 'false'}"
    except ConditionFailed as failure:
        counts = "is not met" if rule.effect == "allow" else "counts as met"
        return f"{rule.when.source} fails ({failure.message}), so it {counts}"
