"""Policies as people write them: YAML files become rules, or a list of everything that is wrong with them.

Above: `keeper`, the command line. Below: `pages`, `model`. docs/policy.md tells how to write one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from re import Pattern
from typing import Final, TypeVar, cast

from yaml import Node, ScalarNode

from fabric.policy.condition import Condition, ConditionMistake
from fabric.policy.decisions import Policy
from fabric.policy.matching import ON_TOPICS, VERBS, Verb, Where, glob
from fabric.policy.model import EFFECTS, HOUR, Ask, Effect, Rule, Who
from fabric.policy.pages import FileError, Page, Source, read
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams
from fabric_sdk.contracts.event import checked_pattern
from fabric_sdk.contracts.subjects import checked_token

DEFAULT: Final = Path(__file__).with_name("default.yaml")
"""What holds where no policy is configured."""

_WHO: Final = ("roles", "scopes", "principals", "agents")
_ASK: Final = ("approvers", "self", "expires")
_RULE: Final = ("name", *_WHO, "verbs", "on", "when", "then", *_ASK)
_AGENTS: Final = re.compile(r"[a-z0-9*-]+")
_DURATION: Final = re.compile(r"(\d{1,5})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

MOST_ROLES: Final = 1000
"""Of a policy; what each includes grows with their square."""

_Roles = dict[str, tuple[Page, Node, tuple[tuple[Node, str], ...]]]
"""By name: where it is written, and what it includes."""

T = TypeVar("T", bound=str)


def load(path: Path | None = None) -> Policy:
    """The policy in a file, or in all files of a folder; the built-in one, where none is named.

    Raises:
        FileError: with every mistake in them.
        ConfigurationError: they cannot be read.
    """
    return parse(read(path or DEFAULT))


def parse(sources: Iterable[Source]) -> Policy:
    """The policy in files that were read; in which file and order its parts stand makes no difference.

    Raises:
        FileError: with every mistake in them.
    """
    pages = [Page(source) for source in sources]
    tops = [(page, page.members(page.root, ("roles", "rules"))) for page in pages]
    declared: _Roles = {}
    for page, top in tops:
        if "roles" in top:
            _declare(page, top["roles"][1], declared)
    roles = _closed(declared)
    rules: dict[str, Rule] = {}
    for page, top in tops:
        for node in page.items(top["rules"][1]) if "rules" in top else ():
            _add(page, node, roles, rules)
    mistakes = [mistake for page in pages for mistake in page.mistakes]
    if not rules and not mistakes:  # most likely a file that is just being written
        mistakes = [pages[0].nothing("there is no rule, so nobody could do anything", "add one under `rules`")]
    if mistakes:
        raise FileError(mistakes)
    return Policy(rules.values(), roles)


def _declare(page: Page, node: Node, declared: _Roles) -> None:
    for name, (key, value) in page.members(node, None).items():
        if name in declared:
            other, at, _ = declared[name]
            page.wrong(key, f"role {name!r} stands at {other.place(at)}, too", "leave one out")
        else:
            declared[name] = (page, key, tuple((item, page.text(item)) for item in page.items(value)))


def _closed(declared: _Roles) -> dict[str, frozenset[str]]:
    """Each role with all that it includes, itself among them."""
    if len(declared) > MOST_ROLES:
        page, node, _ = list(declared.values())[MOST_ROLES]
        page.wrong(node, f"there are more than {MOST_ROLES} roles", "let some roles be one")
        return {name: frozenset((name,)) for name in declared}
    for page, _, includes in declared.values():
        for node, role in includes:
            _known(page, node, role, declared)
    closed: dict[str, frozenset[str]] = {}
    for name, (page, node, _) in declared.items():
        found: set[str] = set()
        following = [name]
        while following:
            for _, role in declared[following.pop()][2]:
                if role in declared and role not in found:
                    found.add(role)
                    following.append(role)
        if name in found:
            page.wrong(node, f"role {name!r} includes itself, by way of others or not", "break the circle")
        closed[name] = frozenset(found | {name})
    return closed


def _known(page: Page, node: Node, role: str, roles: Mapping[str, object]) -> str:
    if role and role not in roles:
        page.wrong(node, f"there is no role {role!r}", f"add it under `roles`; there are {', '.join(roles) or 'none'}")
    return role


def _add(page: Page, node: Node, roles: Mapping[str, object], rules: dict[str, Rule]) -> None:
    members = page.members(node, _RULE, "name", "on", "then")
    values = {name: value for name, (_, value) in members.items()}
    effect: Effect = _one_of(page, values["then"], page.text(values["then"]), EFFECTS) if "then" in values else "deny"
    where, verbs = _where(page, values)
    rule = Rule(
        name=_name(page, values["name"], rules) if "name" in values else "",
        effect=effect,
        who=_who(page, node, values, roles),
        verbs=verbs,
        where=where,
        when=_condition(page, values["when"]) if "when" in values else None,
        ask=_ask(page, node, values, roles) if effect == "ask" else None,
        place=page.place(node),
    )
    for name in _ASK if effect != "ask" else ():
        if name in members:
            page.wrong(
                members[name][0],
                f"{name!r} means something only where a person is asked",
                "leave it out, or write then: ask",
            )
    rules.setdefault(rule.name, rule)


def _name(page: Page, node: Node, rules: Mapping[str, Rule]) -> str:
    name = page.text(node)
    if name in rules:
        page.wrong(node, f"rule {name!r} stands at {rules[name].place}, too", "give each rule a name of its own")
    elif name:
        _checked(page, node, name, checked_token, "cannot name a rule")
    return name


def _who(page: Page, node: Node, values: Mapping[str, Node], roles: Mapping[str, object]) -> Who:
    stated = {part: page.texts(values[part]) for part in _WHO if part in values}
    if not stated and values:
        page.wrong(node, "the rule speaks of nobody", f'add {", ".join(_WHO)}, or principals: ["*"] for everybody')
    for each, role in stated.get("roles", ()):
        _known(page, each, role, roles)
    words = {part: [text for _, text in texts] for part, texts in stated.items()}
    return Who(
        frozenset(words.get("roles", ())),
        frozenset(words.get("scopes", ())),
        tuple(map(glob, words.get("principals", ()))),
        tuple(map(glob, words.get("agents", ()))),
    )


def _where(page: Page, values: Mapping[str, Node]) -> tuple[Where, frozenset[Verb]]:
    """What a rule is about; each verb needs something to be done to, and each thing a verb."""
    wanted = page.texts(values["on"]) if "on" in values else []
    names: list[tuple[Pattern[str], Pattern[str]]] = []
    topics: list[tuple[str, ...]] = []
    for node, pattern in wanted:
        agent, slash, name = pattern.partition("/")
        if not slash:
            _checked(page, node, pattern, checked_pattern, "is neither <agent>/<name> nor a topic")
            topics.append(tuple(pattern.split(".")))
        elif not name or _AGENTS.fullmatch(agent) is None:
            page.wrong(
                node, f"{pattern!r} names nothing of an agent", "write <agent>/<name>, like shop/refund or shop/*"
            )
        else:
            names.append((glob(agent), glob(name)))
    fitting: set[Verb] = {verb for verb in VERBS if (topics if verb in ON_TOPICS else names)}
    if "verbs" not in values:
        for node, pattern in wanted:
            if pattern == "*":  # a topic of one word, written by who means everything
                page.wrong(
                    node,
                    "'*' is a topic of one word, and no tool",
                    'write "*/*" and ">" for everything, or state verbs',
                )
        return Where(tuple(names), tuple(topics)), frozenset(fitting)
    stated: list[tuple[Node, Verb]] = [
        (node, _one_of(page, node, text, VERBS)) for node, text in page.texts(values["verbs"])
    ]
    verbs: frozenset[Verb] = frozenset(verb for _, verb in stated)
    for node, verb in stated:
        if wanted and verb not in fitting:
            kind = "topics" if verb in ON_TOPICS else "<agent>/<name>"
            page.wrong(node, f"the rule names nothing to {verb}", f"add {kind} to `on`, or leave {verb} out")
    for node, pattern in wanted:
        if stated and not any((verb in ON_TOPICS) is ("/" not in pattern) for verb in verbs):
            page.wrong(node, f"no verb of the rule can be done to {pattern!r}", "add a verb, or leave it out")
    return Where(tuple(names), tuple(topics)), verbs


def _condition(page: Page, node: Node) -> Condition | None:
    source = page.text(node)
    try:
        return Condition(source) if source.strip() else None
    except ConditionMistake as mistake:
        # Only in a text on one line its columns are the file's.
        quoted = isinstance(node, ScalarNode) and node.style in ("'", '"')
        exact = node.start_mark.line == node.end_mark.line
        column = mistake.column - 1 + quoted if exact else 0
        where = "" if exact else f" (line {mistake.line}, column {mistake.column} of the condition)"
        page.wrong(node, f"{mistake.message}{where}", str(mistake.fix), column=column)
    return None


def _ask(page: Page, node: Node, values: Mapping[str, Node], roles: Mapping[str, object]) -> Ask:
    if "approvers" not in values:
        page.wrong(node, "'approvers' is missing, so nobody could say yes", "add the roles that may")
    approvers = page.texts(values["approvers"]) if "approvers" in values else []
    return Ask(
        frozenset(_known(page, each, role, roles) for each, role in approvers),
        by_asker="self" in values and page.flag(values["self"]),
        seconds=_seconds(page, values["expires"]) if "expires" in values else HOUR,
    )


def _seconds(page: Page, node: Node) -> float:
    found = _DURATION.fullmatch(text := page.text(node))
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if text and not seconds:
        page.wrong(node, f"{text!r} is no duration", "write 90s, 10m, 2h or 7d")
    return float(seconds)


def _one_of(page: Page, node: Node, text: str, known: tuple[T, ...]) -> T:
    if text and text not in known:
        page.wrong(node, f"there is no {text!r} here", f"there are {', '.join(known)}")
    return cast(T, text) if text in known else known[0]


def _checked(page: Page, node: Node, text: str, check: Callable[[str], str], what: str) -> None:
    try:
        check(text)
    except (ConfigurationError, InvalidParams) as wrong:
        page.wrong(node, f"{text!r} {what}", str(wrong.fix))
