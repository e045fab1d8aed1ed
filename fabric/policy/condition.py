"""Conditions on an act, in CEL: compiled once, bounded in what a caller can make them cost.

Above: `model`, `files`, `explain`. Below: the Rust implementation of CEL (ADR 8). An author's mistakes are found while
compiling, as far as that can be; the rest is `ConditionFailed`, and what it counts as is the rule's to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from fabric_sdk.contracts.errors import ConfigurationError, FabricError

NAMES: Final = ("arguments", "principal", "roles", "agent", "tool")
"""What a condition may speak of."""

TYPES: Final = frozenset(("int", "uint", "double", "string", "bool", "bytes", "list", "map", "null_type"))
FUNCTIONS: Final = frozenset(
    (
        *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
        *("string", "int", "uint", "double", "bytes", "duration", "timestamp"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)
"""The library's own. It says that it does not know one only when it is to run it, and that is too late here."""

LONGEST: Final = 1000
"""Characters of a condition."""
DEEPEST: Final = 64
"""Levels of arguments that a condition looks into: on ten thousand the library ends the process."""
MOST_VALUES: Final = 10_000
MOST_VALUES_IN_LOOPS: Final = 1000
MOST_CHARACTERS_IN_LOOPS: Final = 65_536
"""Values and characters of arguments. A loop's cost grows with their square: 20 ms for a thousand values."""

_STRING: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.S
)
_LOOP: Final = r"\.\s*(?:all|exists|exists_one|filter)\s*\("
_MAP: Final = re.compile(r"\.\s*map\s*\(")
_BOUND: Final = re.compile(rf"{_LOOP}\s*(\w+)\s*,")
_PARENTHESIS: Final = re.compile(rf"(?P<loop>{_LOOP})|[()]")
_LOOPS: Final = "use all, exists, exists_one or filter, one after another"
_SYNTAX: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")
_FUNCTION: Final = re.compile(r"[A-Za-z]\w*")


class ConditionFailed(FabricError):
    """A condition cannot be evaluated on these arguments."""


class ConditionMistake(ConfigurationError):
    """A condition is wrong as it is written."""

    def __init__(self, message: str, *, fix: str, line: int = 1, column: int = 1) -> None:
        """`line` and `column` count from 1, within the condition."""
        super().__init__(message, fix=fix)
        self.line = line
        self.column = column


class Condition:
    """One compiled condition."""

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            ConditionMistake: it is no CEL, speaks of what there is not, could cost too much, or never changes.
        """
        import cel  # here, as in routing/expressions.py: only those who use it pay for its import

        self.source = source
        if len(source) > LONGEST:
            raise ConditionMistake(f"a condition has at most {LONGEST} characters", fix="split the rule")
        try:
            self._program = cel.compile(source)
        except ValueError as wrong:
            raise _syntax(str(wrong)) from None
        code = _STRING.sub("''", source)
        if _MAP.search(code):
            raise ConditionMistake("map can be made to build what fills the memory", fix=_LOOPS)
        bound = set(_BOUND.findall(code))
        self._loops = bool(bound)
        used = set(self._program.variables())
        self._names = sorted(used.intersection(NAMES))
        if unknown := sorted(used - bound - TYPES - set(NAMES)):
            raise ConditionMistake(f"there is no {unknown[0]!r} here", fix=f"there are {', '.join(NAMES)}")
        if unknown := sorted(set(filter(_FUNCTION.fullmatch, self._program.functions())) - FUNCTIONS):
            raise ConditionMistake(
                f"there is no function {unknown[0]!r}", fix=f"there are {', '.join(sorted(FUNCTIONS))}"
            )
        if _nests(code):
            raise ConditionMistake("a loop within a loop can be made to run for minutes", fix=_LOOPS)
        if not self._names:
            raise ConditionMistake(
                "it is the same for every act, so the rule applies always or never",
                fix="leave out the condition or the rule",
            )

    def __repr__(self) -> str:
        return f"<Condition {self.source}>"

    def met(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true of these values, by `NAMES`.

        Raises:
            ConditionFailed: it speaks of a member that is not there, mixes types, is neither true nor false, or the
                arguments are too large or too deep to look at.
        """
        if "arguments" in self._names:
            self._check_size(values["arguments"])
        try:
            outcome = self._program.execute({name: values[name] for name in self._names})
        except KeyError as missing:
            raise ConditionFailed(f"there is no {missing}") from None
        except Exception as failure:  # the library raises several kinds: other types, overflows, division by zero
            raise ConditionFailed(str(failure).partition(". ")[0]) from None
        if outcome is True or outcome is False:
            return outcome
        raise ConditionFailed("it is neither true nor false")

    def _check_size(self, arguments: Any) -> None:
        """Refuse to look at what would cost too much."""
        values, characters = (MOST_VALUES_IN_LOOPS if self._loops else MOST_VALUES), 0
        level: list[Any] = [arguments]
        for _ in range(DEEPEST):
            below: list[Any] = []
            for value in level:
                if isinstance(value, str):
                    characters += len(value)
                    continue
                if isinstance(value, dict):
                    members = cast(dict[str, Any], value)
                    characters += sum(map(len, members))
                    inner = members.values()
                elif isinstance(value, list):
                    inner = cast(list[Any], value)
                else:
                    continue
                values -= len(inner)
                if values < 0:
                    raise ConditionFailed("the arguments are too large for a condition")
                below.extend(inner)
            if self._loops and characters > MOST_CHARACTERS_IN_LOOPS:
                raise ConditionFailed("the arguments are too large for a condition")
            if not below:
                return
            level = below
        raise ConditionFailed("the arguments are too deep for a condition")


def _syntax(said: str) -> ConditionMistake:
    fix = "write CEL, like arguments.amount > 100"
    if "Recursion limit" in said or (found := _SYNTAX.search(said)) is None:
        return ConditionMistake("it is nested too deep", fix=fix)
    return ConditionMistake(found[3].partition(" expecting ")[0], fix=fix, line=int(found[1]), column=int(found[2]))


def _nests(code: str) -> bool:
    """Whether a loop runs within another."""
    open_: list[bool] = []
    for found in _PARENTHESIS.finditer(code):
        loop = found["loop"] is not None
        if found[0] == ")":
            if open_:
                open_.pop()
        elif loop and any(open_):
            return True
        else:
            open_.append(loop)
    return False
