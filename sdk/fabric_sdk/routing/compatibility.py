"""Would a reader of one JSON Schema understand what fits another? A pure comparison, on the safe side.

Above: the schema registry. Below: nothing. What it cannot compare, it only lets pass where both say the same. There is
no kept library for this; the keywords are those of JSON Schema 2020-12 that describe data.

One convention: a writer that leaves its objects open says nothing of what it does not name, so a reader may name more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote

_TYPES: Final = ("null", "boolean", "object", "array", "number", "string", "integer")
_NUMBER: Final = ("number", "integer")
_AT_LEAST: Final = {
    "minimum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "minLength": ("string",),
    "minItems": ("array",),
    "minProperties": ("object",),
}
_AT_MOST: Final = {
    "maximum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "maxLength": ("string",),
    "maxItems": ("array",),
    "maxProperties": ("object",),
}
"""Bounds, and the types of what they bound."""
_SAME: Final = (
    *("pattern", "format", "multipleOf", "contains", "prefixItems", "uniqueItems", "propertyNames"),
    *("patternProperties", "dependentRequired", "dependentSchemas", "if", "then", "else", "not", "allOf", "oneOf"),
)
"""Keywords that are only compared for being the same: a reader may ask for less, and for nothing else."""
_NEVER: Final = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef")
"""Keywords whose meaning hangs on all that stands around them: only a reader that is the same as a whole takes it."""
_TOGETHER: Final = frozenset(
    {"properties", "patternProperties", "additionalProperties", "prefixItems", "items", "if", "then", "else"}
    | {"contains", "minContains", "maxContains", "anyOf", "$ref", *_NEVER}
)
"""Keywords that mean something else in other company."""
_SILENT: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"}
    | {"$defs", "definitions"}
)
"""Keywords that say nothing of the data."""
_DEEPEST: Final = 64
_MOST: Final = 10_000
"""Comparisons that two schemas are worth."""


class Break(NamedTuple):
    """One thing that would break."""

    path: str
    """Where in the schema: a JSON pointer."""
    why: str


def breaks(*, reader: Any, writer: Any) -> list[Break]:
    """Why something that fits `writer` might not fit `reader`; empty if all of it does."""
    return list(_Comparison(reader, writer).breaks(reader, writer, "", 0))


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; Python takes `1` for `True`."""
    return _text(one) == _text(other)


class _Comparison:
    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._begun: dict[str, int] = {}
        """What is being compared, and how deep in the data that began."""
        self._left = _MOST

    def breaks(self, reader: Any, writer: Any, path: str, depth: int) -> Iterator[Break]:
        """What of `writer` the `reader` would not take, both at `path`, and `depth` steps into the data."""
        if self._same(reader, writer):
            return
        wanted, given = _resolved(reader, self._reader), _resolved(writer, self._writer)
        if wanted == {} or given is False:
            return
        both = _text([wanted, given])
        self._left -= 1
        if wanted is None or self._left < 0 or self._begun.get(both) == depth:
            yield Break(path or "/", "cannot be compared")
        elif wanted is False:
            yield Break(path or "/", "nothing is allowed here any more")
        elif both not in self._begun:  # else a schema contains itself: it fits if the rest of it does
            self._begun[both] = depth
            yield from self._parts(wanted, given or {}, path, depth)
            del self._begun[both]

    def _same(self, reader: Any, writer: Any) -> bool:
        """Whether both say the same, and mean it: also what they refer to is the same."""
        if not same(reader, writer):
            return False
        return _reached(reader, self._reader, {}) == _reached(writer, self._writer, {})

    def _parts(self, wanted: dict[str, Any], given: dict[str, Any], path: str, depth: int) -> Iterator[Break]:
        """Take apart what consists of several: a reader wants all of its parts, and a writer writes any choice."""
        if "$ref" in wanted:
            for part in (_referred(wanted, self._reader), _without(wanted, "$ref")):
                yield from self.breaks(part, given, path, depth)
        elif "anyOf" in given:
            for number, choice in enumerate(given["anyOf"]):
                joined = _joined(choice, _without(given, "anyOf"))
                yield from self.breaks(wanted, choice if joined is None else joined, f"{path}/anyOf/{number}", depth)
        elif "anyOf" in wanted:
            yield from self.breaks(_without(wanted, "anyOf"), given, path, depth)
            if not any(not list(self.breaks(choice, given, path, depth)) for choice in wanted["anyOf"]):
                yield Break(f"{path}/anyOf", "fits none of the choices")
        else:
            types = _kinds(given)
            yield from self._values(wanted, given, path)
            yield from self._bounds(wanted, given, path, types)
            if "object" in types:
                yield from self._objects(wanted, given, path, depth)
            if "array" in types and "items" in wanted:
                first = () if "prefixItems" in wanted else given.get("prefixItems", ())
                for items in (*first, given.get("items", True)):
                    yield from self.breaks(wanted["items"], items, f"{path}/items", depth + 1)

    def _values(self, wanted: Mapping[str, Any], given: Mapping[str, Any], path: str) -> Iterator[Break]:
        """Types and listed values."""
        allowed = {*_types(wanted), *(["integer"] if "number" in _types(wanted) else [])}
        accepted, listed = _listed(wanted), _listed(given)
        if listed is None:
            for name in sorted({*_types(given)} - allowed):
                yield Break(f"{path}/type", f"{name} is not read")
            if accepted is not None:
                yield Break(f"{path}/enum", "values that are not listed are not read")
            return
        texts = None if accepted is None else list(map(_text, accepted))
        for value in listed:
            unknown = texts is not None and _text(value) not in texts
            if unknown or isinstance(value, dict | list) or not set(_types_of(value)) & allowed:
                yield Break(f"{path}/enum", f"{value!r} is not read")

    def _bounds(
        self, wanted: Mapping[str, Any], given: Mapping[str, Any], path: str, types: frozenset[str]
    ) -> Iterator[Break]:
        for name, bounded in _AT_LEAST.items():
            if name in wanted and types & {*bounded} and not (name in given and given[name] >= wanted[name]):
                yield Break(f"{path}/{name}", f"less than {wanted[name]} is not read")
        for name, bounded in _AT_MOST.items():
            if name in wanted and types & {*bounded} and not (name in given and given[name] <= wanted[name]):
                yield Break(f"{path}/{name}", f"more than {wanted[name]} is not read")
        counted = ("minContains", "maxContains") if "contains" in wanted else ()
        for name in (*(name for name in _SAME if name in wanted), *counted):
            if (name in wanted) != (name in given) or not self._same(wanted.get(name), given.get(name)):
                yield Break(f"{path}/{name}", "differs, and cannot be shown to fit")
        for name in _NEVER:
            if name in wanted:
                yield Break(f"{path}/{name}", "cannot be shown to fit where anything around it differs")

    def _objects(self, wanted: Mapping[str, Any], given: Mapping[str, Any], path: str, depth: int) -> Iterator[Break]:
        for name in wanted.get("required", ()):
            if name not in given.get("required", ()):
                yield Break(f"{path}/required", f"{name!r} may be missing")
        read: dict[str, Any] = wanted.get("properties", {})
        written: dict[str, Any] = given.get("properties", {})
        patterns: dict[str, Any] = given.get("patternProperties", {})
        others, beyond = wanted.get("additionalProperties", True), given.get("additionalProperties", True)
        for name, schema in written.items():
            if name in read:
                yield from self.breaks(read[name], schema, f"{path}/properties/{name}", depth + 1)
            elif others is False and schema is not False:
                yield Break(f"{path}/properties/{name}", "is not read: additional properties are forbidden")
            else:
                yield from self.breaks(others, schema, f"{path}/properties/{name}", depth + 1)
        for name in read.keys() - written.keys():
            matching = [schema for pattern, schema in patterns.items() if _may_match(pattern, name)]
            # An open writer says nothing of what it does not name; one that types it does.
            for schema in matching or ([] if beyond is True or beyond == {} else [beyond]):
                yield from self.breaks(read[name], schema, f"{path}/properties/{name}", depth + 1)
        if "patternProperties" not in wanted:
            for pattern, schema in patterns.items():
                yield from self.breaks(others, schema, f"{path}/patternProperties/{pattern}", depth + 1)
        yield from self.breaks(others, beyond, f"{path}/additionalProperties", depth + 1)


def _text(value: Any) -> str:
    """A JSON value as text: the same for what is the same."""
    return json.dumps(value, sort_keys=True)


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema lists, if it does."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that a schema allows."""
    stated = schema.get("type")
    if stated is None:
        return _TYPES
    return (stated,) if isinstance(stated, str) else tuple(stated)


def _kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    """The types of what fits a schema."""
    listed = _listed(schema)
    return frozenset(_types(schema) if listed is None else (kind for value in listed for kind in _types_of(value)))


def _types_of(value: Any) -> tuple[str, ...]:
    """The types that a value is of."""
    kinds: dict[type, tuple[str, ...]] = {
        type(None): ("null",),
        bool: ("boolean",),
        dict: ("object",),
        list: ("array",),
        str: ("string",),
        int: ("integer", "number"),
        float: ("number",),
    }
    return kinds[type(value)]


def _may_match(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # another dialect than Python's
        return True


def _without(schema: Mapping[str, Any], keyword: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != keyword}


def _resolved(schema: Any, root: Any) -> Any:
    """What `schema` says of the data: `False`, or its keywords; `None` where that is not to be found out.

    A reference gives way to what it refers to, if that can stand beside what stands beside the reference.
    """
    for _ in range(_DEEPEST):
        if isinstance(schema, bool):
            return {} if schema else False
        if "$id" in schema and schema is not root:
            return None  # its references are its own
        said = {name: value for name, value in schema.items() if name not in _SILENT and name != "$id"}
        if "$ref" not in said:
            return said
        if (found := _referred(said, root)) is None:
            return None
        schema = _joined(found, _without(said, "$ref"))
        if schema is None:
            return said
    return None


def _joined(one: Any, other: dict[str, Any]) -> Any:
    """A schema that asks for what both ask for; `None` where they cannot simply be put together."""
    other = {name: value for name, value in other.items() if name not in _SILENT}
    if not other or one is False:
        return one
    said: Mapping[str, Any] = {} if one is True else one
    if said.keys() & other.keys() or (said.keys() & _TOGETHER and other.keys() & _TOGETHER) or "$id" in said:
        return None
    return {**said, **other}


def _referred(schema: Mapping[str, Any], root: Any) -> Any:
    """The definition in the same document that `schema` refers to; `None` for any other reference."""
    reference = str(schema["$ref"])
    if reference != "#" and not reference.startswith("#/"):
        return None
    found: Any = root
    for step in unquote(reference).split("/")[1:]:
        if found is not root and "$id" in found:
            return None
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            found = cast("Any", found[int(name)] if isinstance(found, list) else found[name])
        except (LookupError, ValueError, TypeError):
            return None
    return found


def _reached(schema: Any, root: Any, found: dict[str, str]) -> dict[str, str]:
    """All that `schema` refers to, however far: by reference, as text."""
    if isinstance(schema, dict):
        said = cast("dict[str, Any]", schema)
        for name in ("$ref", "$dynamicRef"):
            if isinstance(reference := said.get(name), str) and reference not in found:
                target = _referred(said, root) if name == "$ref" else None
                found[reference] = _text(root if target is None else target)
                _reached(target, root, found)
        for value in said.values():
            _reached(value, root, found)
    elif isinstance(schema, list):
        for value in cast("list[Any]", schema):
            _reached(value, root, found)
    return found
