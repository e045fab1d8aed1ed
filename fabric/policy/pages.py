"""YAML with places: each mistake in a file is told with its line and column, and all of them at once.

Above: `files`, `cases`, `keeper`. Below: PyYAML, which is only asked for nodes: nothing in a file becomes an object by
itself.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import yaml
from yaml import AliasEvent, CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from fabric import files
from fabric_sdk.contracts.errors import ConfigurationError

MOST_BYTES: Final = 262_144
"""Of one file: some 1,500 rules with conditions, which are read in 0.6 s."""
DEEPEST: Final = 32
"""Levels of a file."""
MOST_FILES: Final = 100
"""In a folder."""

_TAG: Final = "tag:yaml.org,2002:"
_PLAIN: Final = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float")}
_CALLED: Final = {
    "map": "a mapping",
    "seq": "a list",
    "str": "text",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "null": "nothing",
    "timestamp": "a date",
}


class Source(NamedTuple):
    """A file as it was read."""

    name: str
    data: bytes


class Mistake(NamedTuple):
    """One mistake; line and column count from 1."""

    file: str
    line: int
    column: int
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.what}; {self.fix}"


class FileError(ConfigurationError):
    """A file is wrong."""

    def __init__(self, mistakes: Collection[Mistake]) -> None:
        """One line of the message for each mistake."""
        self.mistakes = tuple(sorted(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


class Page:
    """One file. What reads it goes on after a mistake, with something harmless in its place, to find the next."""

    def __init__(self, source: Source) -> None:
        self.mistakes: list[Mistake] = []
        self._name = source.name
        self.root = self._compose(source.data)

    def place(self, node: Node) -> str:
        """Where a node stands."""
        return f"{self._name}:{node.start_mark.line + 1}"

    def wrong(self, node: Node, what: str, fix: str, *, line: int = 0, column: int = 0) -> None:
        """Note a mistake, at a node or so many lines and columns after it begins."""
        mark = node.start_mark
        self._note(mark.line + 1 + line, mark.column + 1 + column, what, fix)

    def nothing(self, what: str, fix: str) -> Mistake:
        """A mistake of the file as a whole."""
        return Mistake(self._name, 1, 1, what, fix)

    def members(self, node: Node | None, known: Collection[str] | None, *needed: str) -> dict[str, tuple[Node, Node]]:
        """A mapping's members by their names: each name's node and its value's. `known`: no others may be there."""
        found: dict[str, tuple[Node, Node]] = {}
        if node is None:
            return found
        if not isinstance(node, MappingNode):
            self._misfit(node, "a mapping, of names and what each is")
            return found
        for key, value in cast(list[tuple[Node, Node]], node.value):
            # To YAML, the name `on` is a boolean: a name is what is written, whatever it looks like.
            name = cast(str, key.value) if isinstance(key, ScalarNode) else ""
            if not name.strip():
                self.wrong(key, "this is no name", "write one word, and a colon behind it")
            elif name in found:
                self.wrong(key, f"{name!r} stands here twice", "leave one out")
            elif known is not None and name not in known:
                self.wrong(key, f"there is no {name!r} here", f"there are {', '.join(known)}")
            else:
                found[name] = (key, value)
        for name in needed:
            if name not in found:
                self.wrong(node, f"{name!r} is missing", "add it")
        return found

    def items(self, node: Node) -> list[Node]:
        """A list's items."""
        if isinstance(node, SequenceNode):
            return cast(list[Node], node.value)
        self._misfit(node, "a list, like [this, that]")
        return []

    def text(self, node: Node) -> str:
        """What is text, and not empty."""
        if _kind(node) != "str":
            self._misfit(node, "text; in quotes, if it looks like something else")
            return ""
        if not (text := cast(str, node.value)).strip():
            self.wrong(node, "nothing stands here", "write text")
        return text

    def texts(self, node: Node) -> list[tuple[Node, str]]:
        """A list of texts; an empty one would fit nothing."""
        items = self.items(node)
        if isinstance(node, SequenceNode) and not items:
            self.wrong(node, "the list is empty, so nothing fits", "name something, or leave the list out")
        return [(item, text) for item in items if (text := self.text(item))]

    def flag(self, node: Node) -> bool:
        """True or false."""
        value = self.value(node) if _kind(node) == "bool" else None
        if value is None:
            self._misfit(node, "true or false")
        return bool(value)

    def value(self, node: Node) -> Any:
        """Any JSON value."""
        if isinstance(node, MappingNode):
            return {name: self.value(value) for name, (_, value) in self.members(node, None).items()}
        if isinstance(node, SequenceNode):
            return [self.value(item) for item in self.items(node)]
        if _kind(node) == "str":
            return node.value
        if isinstance(node, ScalarNode) and node.tag in _PLAIN:
            with suppress(ValueError, LookupError):  # as of !!int x
                return cast(Any, yaml.SafeLoader("")).construct_object(node)
        self._misfit(node, "a JSON value; in quotes, if it is text")
        return None

    def _misfit(self, node: Node, wanted: str) -> None:
        self.wrong(node, f"this is {_CALLED.get(_kind(node), node.tag)}", f"write {wanted}")

    def _note(self, line: int, column: int, what: str, fix: str) -> None:
        self.mistakes.append(Mistake(self._name, line, column, what, fix))

    def _compose(self, data: bytes) -> Node | None:
        if len(data) > MOST_BYTES:
            self._note(
                1, 1, f"the file has more than {MOST_BYTES // 1024} KiB", "split it: a folder of files is one policy"
            )
            return None
        try:
            text = data.decode()
        except UnicodeDecodeError as wrong:
            self._note(*_after(data[: wrong.start]), "this is not UTF-8", "save the file as UTF-8")
            return None
        try:
            if self._is_tame(text):
                return yaml.compose(text, Loader=CSafeLoader)
        except ReaderError as wrong:
            self._note(*_after(data[: wrong.position]), "this character is not allowed in YAML", "remove it")
        except yaml.MarkedYAMLError as wrong:
            mark = wrong.problem_mark or wrong.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            self._note(line, column, f"this is no YAML: {wrong.problem}", "mend it; mind quotes and indentation")
        return None

    def _is_tame(self, text: str) -> bool:
        """Whether it can be composed: aliases make much out of little, and depth would exhaust the stack."""
        depth = 0
        for event in yaml.parse(text, Loader=CSafeLoader):
            if isinstance(event, AliasEvent):
                self._note(*_begin(event), "an alias is used", "write it out; roles may include roles")
                return False
            if depth > DEEPEST:
                self._note(*_begin(event), "this is nested too deep", "make it flat")
                return False
            depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
            depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
        return True


def read(path: Path) -> tuple[Source, ...]:
    """A file, or all files `*.yaml` of a folder by their names.

    Raises:
        ConfigurationError: there is none, or one cannot be read.
    """
    try:
        named = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        sources = tuple(Source(str(file), files.read(file, MOST_BYTES)) for file in named[: MOST_FILES + 1])
    except OSError as failure:
        raise ConfigurationError(
            f"{failure.filename}: {failure.strerror}", fix="name a file that can be read, or a folder of *.yaml"
        ) from None
    if not sources:
        raise ConfigurationError(f"{path}: the folder has no *.yaml", fix="name a file, or put one into the folder")
    if len(sources) > MOST_FILES:
        raise ConfigurationError(f"{path}: the folder has more than {MOST_FILES} files *.yaml", fix="put them together")
    return sources


def _kind(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return node.tag.removeprefix(_TAG)
    return "map" if isinstance(node, MappingNode) else "seq"


def _begin(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _after(before: bytes) -> tuple[int, int]:
    """Line and column of what comes next."""
    text = before.decode(errors="replace")
    return text.count("\n") + 1, len(text) - text.rfind("\n")
