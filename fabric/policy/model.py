"""What a policy is made of: a rule, whom it speaks of, what it says.

Above: `decisions`, `files`, whoever acts on a decision. Below: `matching`, `condition`. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from re import Pattern
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

from fabric.policy.condition import Condition, ConditionFailed
from fabric.policy.matching import Verb, Where

Effect = Literal["deny", "ask", "allow"]
EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)
"""The stronger first."""
HOUR: Final = 3600.0


class Asker(Protocol):
    """What a policy wants to know of who asks; `fabric.identity.Identity` is one."""

    @property
    def principal(self) -> str: ...
    @property
    def agent(self) -> str | None: ...
    @property
    def roles(self) -> frozenset[str]: ...
    @property
    def scopes(self) -> frozenset[str]: ...


class Facts(NamedTuple):
    """What conditions look at, beside the agent and the name that are asked for."""

    arguments: Any
    """A tool's or prompt's arguments, an event's data: JSON."""
    principal: str
    roles: frozenset[str]
    """With those that they include."""

    def about(self, agent: str, name: str) -> dict[str, Any]:
        """All that a condition may speak of, by the names it has there."""
        return {
            "arguments": self.arguments,
            "principal": self.principal,
            "roles": sorted(self.roles),
            "agent": agent,
            "tool": name,
        }


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a rule speaks of: all parts that are stated must fit, and of each part one entry is enough."""

    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    principals: tuple[Pattern[str], ...] = ()
    agents: tuple[Pattern[str], ...] = ()

    def misfit(self, principal: str, agent: str | None, roles: frozenset[str]) -> str | None:
        """The first part that does not fit; scopes are left out, as a client can ask for more of those."""
        if self.roles and not self.roles & roles:
            return "roles"
        if self.principals and not any(each.match(principal) for each in self.principals):
            return "principals"
        if self.agents and (agent is None or not any(each.match(agent) for each in self.agents)):
            return "agents"
        return None

    def lacks_scope(self, scopes: frozenset[str]) -> bool:
        """Whether a scope is missing."""
        return bool(self.scopes) and not self.scopes & scopes


@dataclass(frozen=True, slots=True)
class Ask:
    """How a person is asked."""

    approvers: frozenset[str]
    """Roles: whoever has one may answer."""
    by_asker: bool = False
    """Whether who asks may answer, too, with such a role."""
    seconds: float = HOUR
    """After which the question expires."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule. Its name is unique within its policy."""

    name: str
    effect: Effect
    who: Who
    verbs: frozenset[Verb]
    where: Where
    when: Condition | None = None
    ask: Ask | None = None
    """With the effect `ask`, and only then."""
    place: str = ""
    """Where it is written: file and line."""

    def __repr__(self) -> str:
        return f"<Rule {self.name}: {self.effect}>"

    @cached_property
    def precedence(self) -> tuple[int, bool, str]:
        """Rules are looked at in this order, and the first one that applies decides, wherever each is written.

        Deny comes before ask before allow. An answer without a look at the arguments is the quicker one, so
        unconditional rules come first; except where they ask: a condition is more specific, and may want other
        approvers.
        """
        return (EFFECTS.index(self.effect), (self.when is None) is (self.effect == "ask"), self.name)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether its condition is met. One that cannot be evaluated closes: it denies and asks, and never allows."""
        try:
            return self.when is None or self.when.met(values)
        except ConditionFailed:
            return self.effect != "allow"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says of one act."""

    effect: Effect
    rule: Rule | None = None
    """Which decided; none where nothing allows it."""
    needs_scopes: tuple[str, ...] = ()
    """Scopes that alone are missing: with them, the same act would be allowed or asked for."""


DENIED: Final = Decision("deny")
