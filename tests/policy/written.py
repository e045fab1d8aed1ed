"""Policies as tests write them: rules as mappings, which are YAML once they are JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fabric.policy import Decision, FileError, Policy
from fabric.policy.cases import Somebody, checked_act
from fabric.policy.files import parse
from fabric.policy.pages import Source

Written = Mapping[str, Any]

EVERYBODY = ["*"]


def rule(name: str, then: str, *on: str, **more: Any) -> dict[str, Any]:
    """A rule; for everybody, unless `more` says for whom."""
    who = {} if more.keys() & {"roles", "scopes", "agents"} else {"principals": EVERYBODY}
    approvers = {"approvers": ["boss"]} if then == "ask" else {}
    return {"name": name, "on": list(on or ("*/*", ">")), "then": then} | who | approvers | more


def policy(*rules: Written, roles: Mapping[str, Sequence[str]] | None = None) -> Policy:
    """The policy of these rules, with the roles `boss` and `clerk` unless others are named."""
    return parse([source({"roles": roles or {"boss": [], "clerk": []}, "rules": rules})])


def source(content: Any, name: str = "policy.yaml") -> Source:
    return Source(name, json.dumps(content).encode())


def mistakes(text: str | bytes) -> list[str]:
    """What is wrong with a file, without its name: one line for each mistake."""
    try:
        parse([Source("p.yaml", text if isinstance(text, bytes) else text.encode())])
    except FileError as wrong:
        return [line.removeprefix("p.yaml:") for line in wrong.message.splitlines()]
    return []


def decide(policy: Policy, who: Somebody, does: str, arguments: Any = None) -> Decision:
    """What the policy says, with these arguments or none."""
    act = checked_act(*does.split(" ", 1))
    return policy.standing(who).decide(*act, lambda: policy.facts(who, {} if arguments is None else arguments))


def said(decision: Decision) -> tuple[str, str | None, tuple[str, ...]]:
    """A decision, comparable between policies."""
    return decision.effect, decision.rule.name if decision.rule else None, decision.needs_scopes
