"""What a rule is about: globs over `<agent>/<name>`, patterns over topics. Pure.

Above: `model`, and whatever in this package decides or explains. Below: the standard library, and the fabric's own
pattern language for topics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from re import Pattern
from typing import Final, Literal, get_args

Verb = Literal["call", "read", "prompt", "publish", "subscribe"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
ON_TOPICS: Final[frozenset[Verb]] = frozenset(("publish", "subscribe"))

Reach = Literal["all", "part"]

_DOTS: Final = re.compile(r"(?:^|[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:$|[/\\?#]|%2f|%5c)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Where:
    """The tools, resources and prompts of agents, and the topics, that a rule is about."""

    names: tuple[tuple[Pattern[str], Pattern[str]], ...] = ()
    """Of agents, and what each has."""
    topics: tuple[tuple[str, ...], ...] = ()
    """Words of patterns."""

    def reach(self, verb: Verb, agent: str, name: str) -> Reach | None:
        """How much of what is asked for it is about: only of a subscription, which may name many topics, a part."""
        if verb not in ON_TOPICS:
            return "all" if any(who.match(agent) and what.match(name) for who, what in self.names) else None
        asked = name.split(".")
        if any(_covers(topics, asked) for topics in self.topics):
            return "all"
        return "part" if verb == "subscribe" and any(_meet(topics, asked) for topics in self.topics) else None


def glob(pattern: str) -> Pattern[str]:
    """`*` stands for any characters, and nothing else for anything but itself: URIs are full of `?` and brackets."""
    return re.compile(translate(pattern.replace("[", "[[]").replace("?", "[?]")))


def is_evasive(uri: str) -> bool:
    """Whether a URI names something else than it seems to: `public/../secret` looks as if it were below `public/`."""
    return _DOTS.search(uri) is not None


def _covers(pattern: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether each topic that is asked for is one of the pattern's."""
    for at, word in enumerate(pattern):
        if word == ">":
            return len(asked) > at
        if at >= len(asked) or asked[at] == ">" or word not in ("*", asked[at]):
            return False
    return len(pattern) == len(asked)


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether there is a topic that both patterns name."""
    for mine, theirs in zip(one, other, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(one) == len(other)
