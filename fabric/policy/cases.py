"""Tables of cases: who does what, and what a policy is expected to say. What `fabric policy test` runs.

Above: the command line. Below: `pages`, `explain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from yaml import Node

from fabric.policy.decisions import Policy
from fabric.policy.explain import Act, explain
from fabric.policy.matching import ON_TOPICS, VERBS
from fabric.policy.model import EFFECTS, Effect
from fabric.policy.pages import FileError, Page, read
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams
from fabric_sdk.contracts.event import checked_pattern, checked_topic
from fabric_sdk.contracts.subjects import checked_agent_name

SOMEBODY: Final = "somebody"
"""Who asks, where it does not matter."""

_WHO: Final = ("principal", "agent", "roles", "scopes")
_CASE: Final = (*_WHO, "does", "arguments", "expect", "rule")
_FIX: Final = "write a verb and what it is done to, like: call shop/refund, publish orders.new"


@dataclass(frozen=True, slots=True)
class Somebody:
    """An asker, made up."""

    principal: str = SOMEBODY
    agent: str | None = None
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    place: str
    who: Somebody
    act: Act
    arguments: Any
    effect: Effect
    rule: str | None
    """Which is expected to decide, if that matters."""

    def failure(self, policy: Policy) -> str | None:
        """What is not as expected."""
        explained = explain(policy, self.who, self.act, self.arguments)
        decided = explained.decision.rule.name if explained.decision.rule else None
        if explained.decision.effect == self.effect and self.rule in (None, decided):
            return None
        by = f" by rule {self.rule}" if self.rule else ""
        return (
            f"{self.place}: {self.who.principal}, {self.act}: expected {self.effect}{by}, "
            f"got {explained.decision.effect} {explained.why}"
        )


def load_cases(path: Path) -> list[Case]:
    """The cases of a file, or of all files of a folder.

    Raises:
        FileError: with every mistake in them.
        ConfigurationError: they cannot be read.
    """
    pages = [Page(source) for source in read(path)]
    tops = [(page, page.members(page.root, ("cases",), "cases")) for page in pages]
    cases = [_case(page, node) for page, top in tops if "cases" in top for node in page.items(top["cases"][1])]
    mistakes = [mistake for page in pages for mistake in page.mistakes]
    if not cases and not mistakes:
        mistakes = [pages[0].nothing("there is no case", "add one under `cases`")]
    if mistakes:
        raise FileError(mistakes)
    return cases


def checked_act(verb: str, target: str) -> Act:
    """A verb and what it is done to, as people write them: `<agent>/<name>`, or a topic.

    Raises:
        ConfigurationError: there is no such verb, or it cannot be done to that.
    """
    if verb not in VERBS:
        raise ConfigurationError(f"{verb!r} is no verb", fix=f"there are {', '.join(VERBS)}")
    if verb not in ON_TOPICS:
        agent, _, name = target.partition("/")
        if not name:
            raise ConfigurationError(f"{target!r} names nothing to {verb}", fix="write <agent>/<name>")
        return Act(verb, checked_agent_name(agent), name)
    try:
        return Act(verb, "", checked_topic(target) if verb == "publish" else checked_pattern(target))
    except InvalidParams as wrong:
        raise ConfigurationError(wrong.message, fix=wrong.fix) from None


def _case(page: Page, node: Node) -> Case:
    values = {name: value for name, (_, value) in page.members(node, _CASE, "does", "expect").items()}
    words = {
        part: frozenset(text for _, text in page.texts(values[part])) for part in ("roles", "scopes") if part in values
    }
    effect = page.text(values["expect"]) if "expect" in values else ""
    if effect and effect not in EFFECTS:
        page.wrong(values["expect"], f"there is no {effect!r} here", f"there are {', '.join(EFFECTS)}")
    return Case(
        page.place(node),
        Somebody(
            page.text(values["principal"]) if "principal" in values else SOMEBODY,
            page.text(values["agent"]) if "agent" in values else None,
            words.get("roles", frozenset()),
            words.get("scopes", frozenset()),
        ),
        _act(page, values["does"]) if "does" in values else _NOTHING,
        page.value(values["arguments"]) if "arguments" in values else {},
        cast(Effect, effect),
        page.text(values["rule"]) if "rule" in values else None,
    )


def _act(page: Page, node: Node) -> Act:
    text = page.text(node)
    verb, space, target = text.partition(" ")
    try:
        if text and space:
            return checked_act(verb, target.strip())
    except ConfigurationError as wrong:
        page.wrong(node, wrong.message, str(wrong.fix))
        return _NOTHING
    if text:
        page.wrong(node, f"{text!r} is no act", _FIX)
    return _NOTHING


_NOTHING: Final = Act("call", "", "")
