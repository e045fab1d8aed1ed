"""Decides: what somebody may do, by the rules of one policy. Pure.

Above: the gateway, the agents of the platform. Below: `model`. Rules are sorted once (`Rule.precedence`); who asks
selects some (a `Standing`, shared by all whom the same rules fit); what is asked for selects some of those (an
`_Outlook`, remembered); only where one of these has a condition are the arguments looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from fabric.policy.matching import Verb, is_evasive
from fabric.policy.model import DENIED, Ask, Asker, Decision, Facts, Rule

_ASKERS: Final = 1024
"""Of one policy, that are remembered."""
_ACTS: Final = 4096
"""Of one standing, that are remembered …"""
_NAME: Final = 256
"""… if what is asked for has a name of no more characters: clients make names up."""

_Rules = tuple[Rule, ...]


class _Outlook(NamedTuple):
    """What can come of one act."""

    rules: _Rules
    """Those that speak of it, up to the first without a condition."""
    withheld: _Rules
    """Those that would, with another scope; none where `rules` decide in any case."""
    possible: bool
    """Whether it could be allowed or asked for …"""
    within_reach: bool
    """… with other scopes, perhaps."""
    settled: Decision | None = None
    """The decision, where no condition has a say."""

    def decide(self, values: Mapping[str, Any]) -> Decision:
        """The first rule that applies decides; where none does, it is denied."""
        for rule in self.rules:
            if rule.applies(values):
                return Decision(rule.effect, rule)
        with_scopes = [rule for rule in self.withheld if rule.applies(values)]
        if not with_scopes or with_scopes[0].effect == "deny":
            return DENIED
        return Decision(
            "deny", needs_scopes=tuple(sorted({scope for rule in with_scopes for scope in rule.who.scopes}))
        )


class Standing:
    """What those may do to whom the same rules apply. There is one for each such set of rules, so it can be a key."""

    __slots__ = ("__weakref__", "_outlooks", "_rules", "_withheld")

    def __init__(self, rules: _Rules, withheld: _Rules) -> None:
        """`rules` that fit, and those that are `withheld`, as only a scope is missing; both in order of precedence."""
        self._rules = rules
        self._withheld = withheld
        self._outlooks: dict[tuple[Verb, str, str], _Outlook] = {}

    def __repr__(self) -> str:
        return f"<Standing under {len(self._rules)} rules>"

    def decide(self, verb: Verb, agent: str, name: str, facts: Callable[[], Facts]) -> Decision:
        """Whether an act is allowed, denied, or a person is to be asked.

        Args:
            verb: what is to be done.
            agent: whose tool, resource or prompt it is; empty for topics.
            name: its name, URI, topic, or the pattern of a subscription.
            facts: what conditions look at; only called where one has a say.
        """
        outlook = self._outlooks.get((verb, agent, name)) or self._look(verb, agent, name)
        return outlook.settled or outlook.decide(facts().about(agent, name))

    def may(self, verb: Verb, agent: str, name: str) -> bool:
        """Whether an act could be allowed or asked for, with some arguments: for lists."""
        outlook = self._outlooks.get((verb, agent, name)) or self._look(verb, agent, name)
        return outlook.possible

    def could(self, verb: Verb, agent: str, name: str) -> bool:
        """Whether it could be with other scopes, perhaps: for the lists of who can step up."""
        outlook = self._outlooks.get((verb, agent, name)) or self._look(verb, agent, name)
        return outlook.within_reach

    def allowing(self, verb: Verb, agent: str, name: str) -> str | None:
        """The name of the rule that allows an act with any arguments; `None` where it depends on them, or is not."""
        outlook = self._outlooks.get((verb, agent, name)) or self._look(verb, agent, name)
        settled = outlook.settled
        if settled is None or settled.effect != "allow":
            return None
        return "" if settled.rule is None else settled.rule.name

    def _look(self, verb: Verb, agent: str, name: str) -> _Outlook:
        outlook = self._outlook(verb, agent, name)
        if len(name) <= _NAME:
            if len(self._outlooks) >= _ACTS:
                self._outlooks.clear()  # what is in use is back at once
            self._outlooks[verb, agent, name] = outlook
        return outlook

    def _outlook(self, verb: Verb, agent: str, name: str) -> _Outlook:
        if verb == "read" and is_evasive(name):
            return _Outlook((), (), possible=False, within_reach=False, settled=DENIED)
        rules = _up_to_unconditional(reaching(self._rules, verb, agent, name))
        certain = bool(rules) and rules[-1].when is None
        withheld = [] if certain else reaching(self._withheld, verb, agent, name)
        possible, with_scopes = _opens(rules), _opens(_up_to_unconditional(withheld))
        outlook = _Outlook(rules, tuple(withheld), possible, within_reach=possible or with_scopes)
        if any(rule.when is not None for rule in (*rules, *withheld)):
            return outlook
        return outlook._replace(settled=outlook.decide({}))


class Policy:
    """All rules, and what each role includes. Immutable: a change of the files makes a new one."""

    def __init__(self, rules: Iterable[Rule], roles: Mapping[str, frozenset[str]]) -> None:
        """`roles` by name, each with all roles that it includes, itself among them."""
        self.rules: _Rules = tuple(sorted(rules, key=lambda rule: rule.precedence))
        self._roles = roles
        self._standings: WeakValueDictionary[tuple[_Rules, _Rules], Standing] = WeakValueDictionary()
        self._standing = lru_cache(_ASKERS)(self._select)

    def __repr__(self) -> str:
        return f"<Policy of {len(self.rules)} rules>"

    def standing(self, asker: Asker) -> Standing:
        """What `asker` may do."""
        return self._standing(asker.principal, asker.agent, asker.roles, asker.scopes)

    @property
    def scopes(self) -> frozenset[str]:
        """All that a rule asks for."""
        none: frozenset[str] = frozenset()
        return none.union(*(rule.who.scopes for rule in self.rules))

    def facts(self, asker: Asker, arguments: Any) -> Facts:
        """What conditions look at when `asker` acts with these arguments."""
        return Facts(arguments, asker.principal, self.roles(asker.roles))

    def roles(self, held: frozenset[str]) -> frozenset[str]:
        """Those of these roles that the policy knows, and all that they include."""
        none: frozenset[str] = frozenset()
        return none.union(*(self._roles.get(role, none) for role in held))

    def may_approve(self, ask: Ask, approver: Asker, asker: str) -> bool:
        """Whether `approver` may answer what the principal `asker` asked for."""
        return not ask.approvers.isdisjoint(self.roles(approver.roles)) and (
            ask.by_asker or approver.principal != asker
        )

    def _select(self, principal: str, agent: str | None, held: frozenset[str], scopes: frozenset[str]) -> Standing:
        roles = self.roles(held)
        fitting = [rule for rule in self.rules if rule.who.misfit(principal, agent, roles) is None]
        rules = tuple(rule for rule in fitting if not rule.who.lacks_scope(scopes))
        withheld = tuple(rule for rule in fitting if rule.who.lacks_scope(scopes))
        if (standing := self._standings.get((rules, withheld))) is None:
            standing = self._standings[rules, withheld] = Standing(rules, withheld)
        return standing


def reaching(rules: Iterable[Rule], verb: Verb, agent: str, name: str) -> list[Rule]:
    """Those of the rules that speak of an act, in their order.

    Of a subscription that names more topics than a rule: one that allows does not reach it, one that asks denies it,
    since its approvers answer for its own topics alone.
    """
    found: list[Rule] = []
    for rule in rules:
        if verb not in rule.verbs or (reach := rule.where.reach(verb, agent, name)) is None:
            continue
        if reach == "all" or rule.effect == "deny":
            found.append(rule)
        elif rule.effect == "ask":
            found.append(replace(rule, effect="deny"))
    return sorted(found, key=lambda rule: rule.precedence)


def _opens(rules: _Rules) -> bool:
    """Whether one of the rules does not deny."""
    return any(rule.effect != "deny" for rule in rules)


def _up_to_unconditional(rules: list[Rule]) -> _Rules:
    for at, rule in enumerate(rules):
        if rule.when is None:
            return tuple(rules[: at + 1])
    return tuple(rules)
