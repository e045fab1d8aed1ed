"""Which changes of a schema break readers, and that nothing else is let through. Proves: EV-4."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric_sdk.routing.compatibility import breaks

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}


def an_object(required: list[str] | None = None, **properties: Any) -> Schema:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def places(reader: Any, writer: Any) -> list[str]:
    """Where `writer` breaks `reader`."""
    return [each.path for each in breaks(reader=reader, writer=writer)]


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        (an_object(a=TEXT), an_object(["a"], a=TEXT)),
        (an_object(a=TEXT), an_object(a=TEXT, b=WHOLE)),
        (an_object(a=TEXT, b=WHOLE), an_object(a=TEXT)),
        ({"type": ["string", "null"]}, TEXT),
        ({"type": "number"}, WHOLE),
        ({"enum": ["a", "b"]}, {"const": "a"}),
        ({"type": "integer", "minimum": 1}, {"type": "integer", "minimum": 2, "maximum": 9}),
        ({"type": ["string", "null"], "maxLength": 5}, {"type": "null"}),
        ({"anyOf": [TEXT, {"type": "null"}]}, {"anyOf": [{"type": "null"}, TEXT]}),
        ({"anyOf": [TEXT, WHOLE]}, WHOLE),
        ({"$defs": {"t": TEXT}, "$ref": "#/$defs/t"}, TEXT),
        (TEXT, {"definitions": {"a/b": TEXT}, "$ref": "#/definitions/a~1b", "title": "A"}),
        ({"type": "array", "items": {"type": "number"}}, {"type": "array", "items": WHOLE}),
        (an_object(a={**TEXT, "description": "old"}), an_object(a={**TEXT, "description": "new"})),
        ({"title": "anything"}, WHOLE),
        (True, {"not": TEXT}),
        (TEXT, False),
    ],
)
def test_what_a_reader_understands(reader: Any, writer: Any) -> None:
    assert breaks(reader=reader, writer=writer) == []


@pytest.mark.parametrize(
    ("reader", "writer", "where"),
    [
        (an_object(["a"], a=TEXT), an_object(a=TEXT), "/required"),
        (an_object(a=TEXT), an_object(a=WHOLE), "/properties/a/type"),
        (an_object(a=an_object(b=TEXT)), an_object(a=an_object(b=WHOLE)), "/properties/a/properties/b/type"),
        ({**an_object(a=TEXT), "additionalProperties": False}, an_object(a=TEXT, b=TEXT), "/properties/b"),
        ({"additionalProperties": False}, {}, "/additionalProperties"),
        ({"type": "object", "additionalProperties": False}, {"type": "object"}, "/additionalProperties"),
        (an_object(a=WHOLE), {"type": "object", "additionalProperties": TEXT}, "/properties/a/type"),
        (an_object(a1=WHOLE), {"type": "object", "patternProperties": {"^a": TEXT}}, "/properties/a1/type"),
        (WHOLE, {"type": "number"}, "/type"),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, "/enum"),
        ({"const": 1}, {"const": True}, "/enum"),
        ({"type": "string", "enum": [1]}, {"enum": [1]}, "/enum"),
        ({"properties": {"a": TEXT}}, {"enum": [{"a": 1}]}, "/enum"),
        ({"type": "integer", "maximum": 9}, WHOLE, "/maximum"),
        ({"type": "string", "minLength": 2}, {"type": "string", "minLength": 1}, "/minLength"),
        ({"type": "string", "pattern": "^a"}, TEXT, "/pattern"),
        ({"items": TEXT}, {"prefixItems": [WHOLE], "items": TEXT}, "/items/type"),
        ({"contains": TEXT}, {"contains": TEXT, "minContains": 0}, "/minContains"),
        ({"anyOf": [TEXT, WHOLE]}, {"type": "null"}, "/anyOf"),
        ({"type": "object", "anyOf": [TEXT, WHOLE]}, WHOLE, "/type"),
        (WHOLE, {"anyOf": [WHOLE, TEXT]}, "/anyOf/1/type"),
        (an_object(a=TEXT), {**an_object(a=TEXT), "anyOf": [an_object(a=WHOLE)]}, "/anyOf/0/properties/a/type"),
        (
            {**an_object(a=TEXT), "unevaluatedProperties": False},
            {**an_object(a=TEXT, b=TEXT), "unevaluatedProperties": False},
            "/unevaluatedProperties",
        ),
        (False, TEXT, "/"),
    ],
)
def test_what_breaks_a_reader(reader: Any, writer: Any, where: str) -> None:
    assert where in places(reader, writer)


def test_a_definition_that_changes_breaks_whatever_refers_to_it() -> None:
    def with_definition(definition: Schema, use: Schema) -> Schema:
        return {"$defs": {"d": definition}, **use}

    uses: list[Schema] = [
        an_object(a={"$ref": "#/$defs/d"}),
        an_object(a={"type": "array", "items": {"$ref": "#/$defs/d"}}),
        {"allOf": [{"$ref": "#/$defs/d"}]},
        {"oneOf": [{"not": {"$ref": "#/$defs/d"}}, {"type": "null"}]},
        {"minLength": 1, "$ref": "#/$defs/d"},
        an_object(a={"$ref": "#/$defs/d", "anyOf": [TEXT, WHOLE]}),
        an_object(a={"$dynamicRef": "#d"}),
    ]
    for use in uses:
        old, new = with_definition(TEXT, use), with_definition(WHOLE, use)
        assert places(old, new), use
        assert places(old, with_definition(TEXT, use)) == []


def test_references_by_anchor_or_id_are_only_taken_where_nothing_changed() -> None:
    named: Schema = {"$defs": {"d": {"$anchor": "here", "type": "string"}}, "$ref": "#here"}
    assert places(named, named) == []
    assert places(named, {**named, "$defs": {"d": {"$anchor": "here", "type": "integer"}}}) != []
    inner: Schema = {"properties": {"a": {"$id": "urn:a", "type": "string"}}}
    assert places(inner, {**inner, "type": "object"}) == []
    assert places(inner, {"properties": {"a": {"$id": "urn:a", "type": "integer"}}}) == ["/properties/a"]


def tree(value: Schema) -> Schema:
    node = an_object(left={"$ref": "#/$defs/n"}, right={"$ref": "#/$defs/n"}, value=value)
    return {"$defs": {"n": node}, "$ref": "#/$defs/n"}


def test_schemas_that_contain_themselves() -> None:
    assert places(tree({"type": "number"}), tree(WHOLE)) == []
    assert places(tree(WHOLE), tree({"type": "number"})) == ["/properties/value/type"]
    assert places({"anyOf": [{"$ref": "#"}, TEXT]}, WHOLE) != []
    assert places({"$ref": "#"}, WHOLE) == ["/"]


def test_a_comparison_always_ends() -> None:
    def knot(leaf: Schema) -> Schema:
        links: dict[str, Any] = {
            f"n{number}": {"anyOf": [an_object(a={"$ref": f"#/$defs/n{number + 1}"}, b=leaf)] * 2}
            for number in range(40)
        }
        return {"$defs": {**links, "n40": leaf}, "$ref": "#/$defs/n0"}

    assert "cannot be compared" in {each.why for each in breaks(reader=knot(WHOLE), writer=knot(TEXT))}


# Whatever fits the writer fits the reader whenever nothing is said to break: held against the validator itself.

NAMES = st.sampled_from(["a", "b", "c"])
SMALL = st.integers(-2, 3)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | SMALL | st.sampled_from([0.5, 1.0]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
SCALARS = st.none() | st.booleans() | SMALL | st.text("ab", max_size=2)
TYPES = st.sampled_from(["null", "boolean", "object", "array", "number", "string", "integer"])


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    """Schemas of a few keywords each, so that two of them are often alike."""
    few = st.lists(inner, min_size=1, max_size=2)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(SCALARS | VALUES, min_size=1, max_size=3),
        "const": SCALARS,
        "properties": st.dictionaries(NAMES, inner, max_size=2),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "additionalProperties": inner | st.booleans(),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b|c"]), inner, max_size=1),
        "items": inner,
        "prefixItems": few,
        "contains": inner,
        "minContains": st.integers(0, 2),
        "minimum": SMALL,
        "exclusiveMaximum": SMALL,
        "maxLength": st.integers(0, 3),
        "minItems": st.integers(0, 2),
        "maxProperties": st.integers(0, 3),
        "anyOf": few,
        "allOf": few,
        "not": inner,
        "$ref": st.sampled_from(["#/$defs/x", "#/$defs/y"]),
        "description": st.sampled_from(["one", "two"]),
    }
    chosen = st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: optional[name] for name in names}))


def of_type(kind: str) -> Schema:
    return {"type": kind}


TYPED: st.SearchStrategy[Any] = TYPES.map(of_type)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(st.booleans() | TYPED, keywords, max_leaves=5)


@st.composite
def changed(draw: st.DrawFn, schema: Any) -> Any:
    """`schema` with one thing in it replaced, left out or added."""
    if isinstance(schema, list):
        parts: list[Any] = list(schema)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if not parts:
            return parts
        place = draw(st.integers(0, len(parts) - 1))
        return [*parts[:place], draw(changed(parts[place])), *parts[place + 1 :]]
    if not isinstance(schema, dict):
        return draw(SCHEMAS) if isinstance(schema, bool) else schema
    said: Schema = dict(schema)  # pyright: ignore[reportUnknownArgumentType]
    how = draw(st.sampled_from(["change", "leave out", "add"]))
    if said and how != "add":
        name = draw(st.sampled_from(sorted(said)))
        left = {each: value for each, value in said.items() if each != name}
        return {**left, name: draw(changed(said[name]))} if how == "change" else left
    return {**said, **draw(keywords(TYPED))}


@st.composite
def documents(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two whole schemas, the second often a changed first."""
    definitions = {"x": draw(SCHEMAS), "y": draw(SCHEMAS)}
    first = draw(keywords(SCHEMAS))
    second = draw(changed(first)) if draw(st.booleans()) else draw(keywords(SCHEMAS))
    others = {**definitions, "y": draw(changed(definitions["y"]))} if draw(st.booleans()) else definitions
    return {**first, "$defs": definitions}, {**second, "$defs": others}


CLOSED: Schema = {"$ref": "#/$defs/closed"}
PLACES = ("items", "contains", "not", "additionalProperties")


def shut(schema: Any) -> Any:
    """`schema`, but what is left open in its objects is empty: so far a writer binds itself, by convention."""
    if not isinstance(schema, dict):
        return CLOSED if schema is True else schema
    said: Schema = dict(schema)  # pyright: ignore[reportUnknownArgumentType]
    for name, value in said.items():
        if name in ("properties", "patternProperties", "$defs"):
            said[name] = {each: shut(inner) for each, inner in value.items()}
        elif name in ("anyOf", "allOf", "prefixItems"):
            said[name] = list(map(shut, value))
        elif name in PLACES:
            said[name] = shut(value)
    elsewhere = {"$ref", "anyOf", "allOf"} & said.keys()
    return said if elsewhere else {"additionalProperties": False, "items": CLOSED, **said}


def validator(schema: Any) -> jsonschema_rs.Draft202012Validator | None:
    try:
        return jsonschema_rs.Draft202012Validator(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return None


@settings(max_examples=400, deadline=None)
@given(documents(), st.booleans(), st.lists(VALUES, min_size=8, max_size=8))
def test_what_fits_the_writer_fits_the_reader_if_nothing_breaks(
    both: tuple[Schema, Schema], alike: bool, values: list[Any]
) -> None:
    for one, other in (both, both[::-1]):
        reader, writer = shut(one) if alike else one, shut(other)
        for each in (reader, writer):
            each["$defs"] = {**each["$defs"], "closed": {"additionalProperties": False, "items": CLOSED}}
        reads, writes = validator(reader), validator(writer)
        if reads is None or writes is None or breaks(reader=reader, writer=writer):
            continue
        for value in values:
            assert not writes.is_valid(value) or reads.is_valid(value)
