"""Limits as people write them: a file of rules, read whole, with every mistake told at once and with its line.

Above: the gateway, which reads it when it starts, and the limiter. Below: PyYAML, which knows where each word stood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from math import ceil, inf
from pathlib import Path
from typing import Final, Literal, cast, get_args

import yaml

from fabric.files import read_whole
from fabric_sdk.contracts.errors import ConfigurationError

Per = Literal["client", "tool", "agent"]
"""Whose use a limit counts: each has a bucket of its own."""

MOST_BYTES: Final = 262_144
"""Of a file: some 4,000 limits, which are read in a second."""

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_RATE: Final = re.compile(r"[1-9][0-9]{0,6}/[smh]")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # it stands in headers and in Redis keys
_MATCHES: Final = ("clients", "agents", "tools")
_LIMIT: Final = ("name", "per", *_MATCHES, "rate", "burst", "concurrency", "daily")
_LOCKOUT: Final = ("after", "within", "seconds", "longest")


class LimitsError(ConfigurationError):
    """The limits cannot be read."""

    def __init__(self, lines: Iterable[str]) -> None:
        """One line for each mistake."""
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit. A call uses every limit that matches it; what is not limited is infinite."""

    name: str
    per: Per
    rate: float = inf
    """Calls a second."""
    burst: int = 1
    """Calls at once, after a rest."""
    concurrency: float = inf
    daily: float = inf
    """Calls in a day of UTC."""
    clients: tuple[str, ...] = ("*",)
    """Globs, as `agents` and `tools`: the limit is for calls that fit one of each."""
    agents: tuple[str, ...] = ("*",)
    tools: tuple[str, ...] = ("*",)

    def matches(self, client: str, agent: str, tool: str) -> bool:
        """Whether a call counts."""
        return all(
            any(fnmatchcase(name, glob) for glob in globs)
            for name, globs in ((client, self.clients), (agent, self.agents), (tool, self.tools))
        )


@dataclass(frozen=True, slots=True)
class Lockout:
    """Whoever is refused `after` times `within` seconds gets nothing for some time."""

    after: int
    within: int
    seconds: int
    """How long, at first; twice as long each time after …"""
    longest: int
    """… up to this. Whoever behaves for so long after it begins anew."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A whole file."""

    rules: tuple[Rule, ...] = ()
    lockout: Lockout | None = None


def read(path: Path | None = None) -> Limits:
    """The limits in a file; those that come with the fabric, if none is named.

    Raises:
        LimitsError: it cannot be read, or something in it is wrong: one line for each mistake.
    """
    return parse(*source(path))


def source(path: Path | None) -> tuple[str, str]:
    """The text of a file of limits, and what it is called where its mistakes are told.

    Raises:
        LimitsError: it cannot be read.
    """
    if path is None:
        return files("fabric.limits").joinpath("default.yaml").read_text(encoding="utf-8"), "default.yaml"
    try:
        return read_whole(path, MOST_BYTES).decode(), str(path)
    except (OSError, UnicodeDecodeError) as failure:
        why = (isinstance(failure, OSError) and failure.strerror) or failure
        raise LimitsError([f"{path}: {why}; FABRIC_LIMITS has to name a file of limits"]) from None


def parse(text: str, where: str) -> Limits:
    """The limits in `text`, whose mistakes are told as those of `where`.

    Raises:
        LimitsError: as `read`.
    """
    reader = _Reader()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as wrong:
        line = f"{wrong.problem_mark.line + 1}: " if wrong.problem_mark else ""
        raise LimitsError([f"{where}:{line}{wrong.problem or wrong}"]) from None
    except (yaml.YAMLError, RecursionError) as wrong:
        raise LimitsError([f"{where}: {' '.join(str(wrong).split())}"]) from None
    limits = Limits() if root is None else reader.limits(root)
    if reader.mistakes:
        raise LimitsError(f"{where}:{line}: {said}" for line, said in sorted(reader.mistakes))
    return limits


class _Reader:
    """Turns nodes into limits and notes what is wrong. What is wrong is left out, and the rest is read all the same."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[int, str]] = []
        """Line and words of each."""

    def limits(self, root: yaml.Node) -> Limits:
        parts = self._members(root, "the file", ("limits", "lockout"))
        rules: dict[str, Rule] = {}
        for node in self._list(parts.get("limits"), "limits"):
            if (rule := self._rule(node)) is not None:
                if rule.name in rules:
                    self._wrong(node, f"there are two limits called {rule.name}; give each a name of its own")
                rules[rule.name] = rule
        return Limits(tuple(rules.values()), self._lockout(parts["lockout"]) if "lockout" in parts else None)

    def _rule(self, node: yaml.Node) -> Rule | None:
        before = len(self.mistakes)
        if not (parts := self._members(node, "a limit", _LIMIT)):
            return None
        name = self._scalar(parts.get("name"), "name", _NAME, "1 to 64 letters, digits, and any of _ . -")
        per = self._scalar(parts.get("per"), "per", re.compile("|".join(get_args(Per))), "client, tool or agent")
        rate = self._scalar(parts.get("rate"), "rate", _RATE, "calls in a second, minute or hour, like 100/s")
        burst, concurrency, daily = (self._number(parts.get(each), each) for each in ("burst", "concurrency", "daily"))
        globs = {each: self._globs(parts[each], each) for each in _MATCHES if each in parts}
        for needed in ("name", "per"):
            if needed not in parts:
                self._wrong(node, f"a limit needs {needed}")
        if not {"rate", "concurrency", "daily"} & parts.keys():
            self._wrong(node, "a limit needs at least one of rate, concurrency, daily")
        if "burst" in parts and "rate" not in parts:
            self._wrong(parts["burst"], "burst needs a rate: say how fast it is filled again")
        if len(self.mistakes) > before or not name:
            return None
        speed = _a_second(rate) if rate else inf
        burst = burst or (ceil(speed) if rate else 1)
        return Rule(name, cast("Per", per), speed, burst, concurrency or inf, daily or inf, **globs)

    def _lockout(self, node: yaml.Node) -> Lockout | None:
        before = len(self.mistakes)
        if not (parts := self._members(node, "lockout", _LOCKOUT)):
            return None
        numbers = {each: self._number(parts.get(each), each) or 0 for each in _LOCKOUT}
        if missing := [each for each in _LOCKOUT if each not in parts]:
            self._wrong(node, f"lockout needs {', '.join(missing)}")
        elif numbers["longest"] and numbers["longest"] < numbers["seconds"]:
            self._wrong(parts["longest"], "longest: it takes as many seconds as `seconds`, or more")
        return Lockout(**numbers) if len(self.mistakes) == before else None

    def _members(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode) or not node.value:
            self._wrong(node, f"{what}: it takes {', '.join(known)}")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            if name not in known:
                self._wrong(key, f"{name!r}: there is no such setting; {what} takes {', '.join(known)}")
            elif name in found:
                self._wrong(key, f"{name} stands here twice")
            else:
                found[name] = value
        return found

    def _list(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None or isinstance(node, yaml.SequenceNode):
            return [] if node is None else cast("list[yaml.Node]", node.value)
        self._wrong(node, f"{what}: it takes a list")
        return []

    def _globs(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        nodes = cast("list[yaml.Node]", node.value) if isinstance(node, yaml.SequenceNode) else [node]
        if not nodes:
            self._wrong(node, f"{what}: an empty list fits nothing; leave it out, or name some")
        found = (self._scalar(each, what, re.compile(r"\S+"), "names, with * for any characters") for each in nodes)
        return tuple(glob for glob in found if glob)

    def _number(self, node: yaml.Node | None, what: str) -> int | None:
        digits = self._scalar(node, what, _NUMBER, "a whole number, 1 or more")
        return None if digits is None else int(digits)

    def _scalar(self, node: yaml.Node | None, what: str, form: re.Pattern[str], words: str) -> str | None:
        if node is None:
            return None
        if isinstance(node, yaml.ScalarNode) and form.fullmatch(node.value):
            return str(node.value)
        said = f"{node.value!r}: " if isinstance(node, yaml.ScalarNode) else ""
        self._wrong(node, f"{what}: {said}it takes {words}")
        return None

    def _wrong(self, node: yaml.Node, said: str) -> None:
        self.mistakes.append((node.start_mark.line + 1, said))


def _a_second(rate: str) -> float:
    number, unit = rate.split("/")
    return int(number) / _SECONDS[unit]
