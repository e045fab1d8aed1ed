"""The words of a tool, and of a question for one: names fall into their parts, and nothing is query syntax.

Above: the index. Below: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, cast

from fabric_sdk.contracts.description import Json

MOST_WORDS: Final = 16
"""Of a question: more only make it slower."""
MOST_CHARACTERS: Final = 1000

_WORD: Final = re.compile(r"[^\W_]+")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DEEPEST: Final = 12
"""Of schemas inside schemas: what is further down says nothing of the tool, and may have no end."""
_NESTED: Final = ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "$defs")


class Words(NamedTuple):
    """A tool's words, by where they stand; the index weighs them differently."""

    name: str
    title: str
    description: str
    parameters: str


def words_of(tool: Json) -> Words:
    """What a tool can be found by. Whatever in it is not as MCP has it is passed over."""
    annotations = tool.get("annotations")
    titles = (tool.get("title"), cast("Json", annotations).get("title") if isinstance(annotations, dict) else None)
    return Words(
        _text(tool.get("name")),
        " ".join(map(_text, titles)),
        _text(tool.get("description")),
        " ".join(_parameters(tool.get("inputSchema"), _DEEPEST)),
    )


def asked_for(question: str) -> list[str]:
    """The words of a question, each once."""
    found = _WORD.findall(_text(question[:MOST_CHARACTERS]).lower())
    return list(dict.fromkeys(found))[:MOST_WORDS]


def _text(said: Any) -> str:
    """The words of a text, and the parts of those that have humps, as `getUser`."""
    if not isinstance(said, str):
        return ""
    words = _WORD.findall(said)
    parts = (_HUMP.sub(" ", word) for word in words)
    return " ".join(word if word == apart else f"{word} {apart}" for word, apart in zip(words, parts, strict=True))


def _parameters(schema: Any, depth: int) -> Iterator[str]:
    """Names, titles and descriptions of all parameters, those inside others too."""
    if not depth:
        return
    if isinstance(schema, list):
        for each in cast("list[Any]", schema):
            yield from _parameters(each, depth - 1)
    elif isinstance(schema, dict):
        described = cast("Json", schema)
        properties = described.get("properties")
        for name, inner in cast("Json", properties).items() if isinstance(properties, dict) else ():
            yield _text(name)
            yield from _said(inner)
            yield from _parameters(inner, depth - 1)
        for key in _NESTED:
            nested = described.get(key)
            inner = list(cast("Json", nested).values()) if key == "$defs" and isinstance(nested, dict) else nested
            yield from _parameters(inner, depth - 1)


def _said(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key in ("title", "description"):
            yield _text(cast("Json", schema).get(key))
