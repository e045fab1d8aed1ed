"""A TOML document that knows on which line each of its values stands.

Above: `layers`, `loading`, `mistakes`. Below: tomllib, which knows no lines. What makes up for it: each statement of a
valid document is a valid document by itself, so they are read one after the other. It refuses to know what the values
mean.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Key = tuple[str, ...]
"""A value's name: those of its tables, and its own."""

_FORM: Final = 'write NAME = VALUE, and as a value "text", 8420, true or ["a", "b"]'
_MENDS: Final = {
    "cannot overwrite": "say it once",
    "cannot declare": "say it once",
    "duplicate": "say it once",
    "unclosed array": "end it with ]",
    "unclosed inline table": "end it with }",
    "expected ']'": "end it with ]",
    "unterminated string": "end it with the quotes that it begins with",
    "illegal character": "end a text with the quotes that it begins with, on the same line",
    "unescaped": "write two of them, or put the text in single quotes",
}
"""What to do about it, by how tomllib's message begins; all else is no value, or no statement."""
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class DocumentError(ValueError):
    """It is no TOML."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(f"{line}: {reason}")


@dataclass(frozen=True, slots=True)
class Document:
    """What stands in a file."""

    path: Path
    values: dict[str, Any]
    lines: Mapping[Key, int]
    """Of each value and table that is written out; the first is 1."""

    def line(self, key: Key) -> int | None:
        """Where a value stands, or else the innermost table that it belongs to, or else what comes first of its own."""
        around = (self.lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in self.lines)
        within = (line for name, line in self.lines.items() if name[: len(key)] == key)
        return next(around, None) or min(within, default=None)


def parse(path: Path, content: bytes) -> Document:
    """The document that a file holds.

    Raises:
        DocumentError: it is no TOML.
    """
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as wrong:
        raise DocumentError(content.count(b"\n", 0, wrong.start) + 1, "it is no UTF-8; save it as such") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        said = str(wrong)
        place = _PLACE.search(said)
        line = int(place[1]) if place and place[1] else text.rstrip("\n").count("\n") + 1
        reason = _PLACE.sub("", said).lower()
        mend = next((mend for begin, mend in _MENDS.items() if reason.startswith(begin)), _FORM)
        raise DocumentError(line, f"{reason}; {mend}") from None
    return Document(path, values, dict(_places(text)))


def _places(text: str) -> Generator[tuple[Key, int]]:
    """The line of each value and table of a valid document."""
    table: Key = ()
    for line, statement in _statements(text):
        values = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            (table,) = _ends(values)
            yield table, line
        else:
            for key in _all(values):
                yield (*table, *key), line


def _statements(text: str) -> Generator[tuple[int, str]]:
    """Each, with the line on which it begins: it ends where what was read so far is whole."""
    statement, begin = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement = f"{statement}{line}\n"
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a list or a text that goes on
        yield begin, statement
        statement, begin = "", number + 1


def _all(values: Mapping[str, Any]) -> Generator[Key]:
    """The names of all values, and of the tables around them."""
    for name, value in values.items():
        yield (name,)
        if isinstance(value, dict):
            for key in _all(value):  # pyright: ignore[reportUnknownArgumentType] - TOML's names are strings
                yield (name, *key)


def _ends(values: Mapping[str, Any]) -> Generator[Key]:
    """The name of the table that a header opens."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            for key in _ends(value):  # pyright: ignore[reportUnknownArgumentType]
                yield (name, *key)
        else:
            yield (name,)
