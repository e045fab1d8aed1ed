"""From an author's function to JSON Schema and back to a call of it. Proves: PT-1."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Optional, cast
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from fabric_sdk import Context, Event, Stream
from fabric_sdk.authoring.reaction import Reaction
from fabric_sdk.authoring.signature import Function, Signature, explain, only_parameter
from fabric_sdk.authoring.streaming import Streaming
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.scope import Scope

pytestmark = pytest.mark.anyio


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    """Where somebody lives."""

    street: str
    number: int = Field(ge=1)


class Person(BaseModel):
    name: str
    born: date | None = None
    address: Address
    friends: list[Person] = []


@dataclass
class Point:
    x: float
    y: float = 0.0


class Options(TypedDict, total=False):
    deep: bool


def schema_of(function: Function) -> dict[str, Any]:
    """The input schema, which is a valid one and names nothing outside itself."""
    schema = Signature(function).input_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    return schema


def context() -> Context:
    return Context(Scope(time.time() + 5))


async def run(function: Function, **arguments: Any) -> Any:
    signature = Signature(function)
    return await signature.run(signature.checked(arguments), context())


def module_of(source: str) -> ModuleType:
    module = ModuleType("authors_module")
    exec(compile(source, "authors_module.py", "exec"), module.__dict__)
    return module


# Schemas


def test_plain_types_defaults_and_what_is_required() -> None:
    def tool(text: str, count: int, ratio: float = 0.5, loud: bool = False, note: str | None = None) -> None: ...

    schema = schema_of(tool)
    assert schema["required"] == ["text", "count"]
    assert {name: field.get("type") for name, field in schema["properties"].items()} == {
        "text": "string",
        "count": "integer",
        "ratio": "number",
        "loud": "boolean",
        "note": None,
    }
    assert schema["properties"]["ratio"]["default"] == 0.5
    assert schema["properties"]["loud"]["default"] is False
    assert schema["properties"]["note"]["default"] is None
    assert schema["properties"]["note"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert "default" not in schema["properties"]["text"]


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def tool() -> None: ...

    assert schema_of(tool) == {"additionalProperties": False, "properties": {}, "type": "object"}


def test_parameters_without_a_type_take_anything() -> None:
    schema = schema_of(module_of("def tool(a, b=1): ...").tool)
    assert schema["required"] == ["a"]
    assert "type" not in schema["properties"]["a"]
    assert schema["properties"]["b"]["default"] == 1


def test_annotated_fields_bring_descriptions_and_limits() -> None:
    def tool(
        count: Annotated[int, Field(description="How many.", ge=1, le=9)],
        name: Annotated[str, Field(description="What.", min_length=1, pattern="^[a-z]+$")] = "x",
    ) -> None: ...

    properties = schema_of(tool)["properties"]
    assert (properties["count"]["description"], properties["count"]["minimum"], properties["count"]["maximum"]) == (
        "How many.",
        1,
        9,
    )
    assert (properties["name"]["description"], properties["name"]["minLength"], properties["name"]["default"]) == (
        "What.",
        1,
        "x",
    )


async def test_fields_as_default_values_mean_the_same() -> None:
    def tool(
        count: int = Field(description="How many.", ge=1),
        name: str = Field("x", description="What."),
        tags: list[str] = Field(default_factory=list),  # noqa: B008 - as people write it
    ) -> Any:
        return [count, name, tags]

    schema = schema_of(tool)
    assert schema["required"] == ["count"]
    assert schema["properties"]["count"]["description"] == "How many."
    assert schema["properties"]["count"]["minimum"] == 1
    assert "default" not in schema["properties"]["count"]
    assert schema["properties"]["name"]["default"] == "x"
    assert await run(tool, count=2) == [2, "x", []]
    assert await run(tool, count=2, name="y", tags=["a"]) == [2, "y", ["a"]]
    with pytest.raises(ValidationError):
        await run(tool, count=0)
    with pytest.raises(ValidationError):
        await run(tool)


async def test_nested_models_enums_unions_and_lists() -> None:
    def tool(
        person: Person,
        colours: list[Colour],
        level: Level,
        kind: Literal["a", "b"],
        points: dict[str, Point],
        when: datetime,
        pair: tuple[int, str],
        tags: set[str],
        either: int | list[int],
        maybe: Optional[Decimal] = None,  # noqa: UP045 - as people still write it
        options: Options = {},  # noqa: B006
        ident: UUID | None = None,
        path: Path = Path("x"),
        far: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    ) -> Any:
        return locals()

    schema = schema_of(tool)
    assert set(schema["$defs"]) >= {"Person", "Address", "Colour", "Level", "Point"}
    assert schema["$defs"]["Address"]["description"] == "Where somebody lives."
    assert schema["properties"]["when"]["format"] == "date-time"
    assert schema["properties"]["path"]["default"] == "x"
    assert schema["properties"]["far"]["default"] == "2026-01-01T00:00:00Z"
    arguments: dict[str, Any] = {
        "person": {"name": "Zoë", "born": "2000-02-29", "address": {"street": "High", "number": 1}, "friends": []},
        "colours": ["red", "blue"],
        "level": 2,
        "kind": "a",
        "points": {"p": {"x": 1}},
        "when": "2026-11-20T12:00:00Z",
        "pair": [1, "x"],
        "tags": ["t", "u"],
        "either": [1, 2],
        "maybe": "1.50",
        "ident": "12345678-1234-5678-1234-567812345678",
    }
    jsonschema.validate(arguments, schema, jsonschema.Draft202012Validator)
    values = await run(tool, **arguments)
    assert values["person"] == Person(
        name="Zoë", born=date(2000, 2, 29), address=Address(street="High", number=1), friends=[]
    )
    assert values["colours"] == [Colour.RED, Colour.BLUE]
    assert values["level"] is Level.HIGH
    assert values["points"] == {"p": Point(1.0)}
    assert values["when"] == datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert values["pair"] == (1, "x")
    assert values["tags"] == {"t", "u"}
    assert values["maybe"] == Decimal("1.50")
    assert values["ident"] == UUID("12345678-1234-5678-1234-567812345678")
    assert values["options"] == {}
    assert values["path"] == Path("x")


async def test_a_parameter_may_have_any_name_that_python_allows() -> None:
    def tool(self: int, cls: int, model_config: int, schema: int, copy: int, json: int, function: int) -> int:
        return self + cls + model_config + schema + copy + json + function

    names = ("self", "cls", "model_config", "schema", "copy", "json", "function")
    assert list(schema_of(tool)["properties"]) == list(names)
    signature = Signature(tool)
    assert await signature.run(signature.checked(dict.fromkeys(names, 1)), context()) == 7


@given(
    st.fixed_dictionaries(
        {"a": st.integers(-(10**6), 10**6), "b": st.text(max_size=5)},
        optional={
            "c": st.none() | st.booleans(),
            "d": st.lists(st.floats(allow_nan=False), max_size=3),
            "unknown": st.none(),
        },
    )
)
def test_what_the_schema_allows_the_function_takes(arguments: dict[str, Any]) -> None:
    def tool(a: int, b: str, c: bool | None = None, d: list[float] | None = None) -> None: ...

    signature = Signature(tool)
    fits = cast("Any", jsonschema).Draft202012Validator(signature.input_schema()).is_valid(arguments)
    assert fits == ("unknown" not in arguments)
    if fits:
        assert signature.checked(arguments) == arguments
    else:
        with pytest.raises(ValidationError):
            signature.checked(arguments)


# What cannot be a tool says so where it is written


def starred(*names: str) -> None: ...


def keywords(**options: int) -> None: ...


def positional(name: str, /) -> None: ...


def no_schema(lock: threading.Lock) -> None: ...


def callback(then: Callable[[int], int]) -> None: ...


@pytest.mark.parametrize("function", [starred, keywords, positional, no_schema, callback])
def test_parameters_that_have_no_json_schema_are_refused(function: Function) -> None:
    with pytest.raises(ConfigurationError, match=function.__name__) as refused:
        Signature(function).input_schema()
    assert refused.value.fix


def test_a_type_that_cannot_be_found_is_named() -> None:
    module = module_of("from __future__ import annotations\ndef tool(thing: Missing): ...")
    with pytest.raises(ConfigurationError, match="tool: name 'Missing' is not defined") as refused:
        Signature(module.tool)
    assert refused.value.fix


# Contexts


async def test_the_context_comes_in_any_position_and_is_in_no_schema() -> None:
    async def first(ctx: Context, a: int) -> Any:
        return ctx, a

    async def last(a: int, ctx: Context) -> Any:
        return ctx, a

    async def keyword(a: int, *, context: Context, b: int = 2) -> Any:
        return context, a, b

    async def quoted(a: int, here: "Context") -> Any:  # noqa: UP037 - as people write it
        return here, a

    async def maybe(a: int, ctx: Context | None = None) -> Any:
        return ctx, a

    async def annotated(a: int, ctx: Annotated[Context, "of this call"]) -> Any:
        return ctx, a

    def in_a_thread(ctx: Context, a: int) -> Any:
        return ctx, a

    for function in (first, last, keyword, quoted, maybe, annotated, in_a_thread):
        properties = schema_of(function)["properties"]
        assert set(properties) == {"a"} | ({"b"} if function is keyword else set[str]()), function.__name__
        signature, given_context = Signature(function), context()
        result = await signature.run(signature.checked({"a": 1}), given_context)
        assert result[0] is given_context, function.__name__
        assert result[1] == 1


async def test_a_caller_cannot_hand_in_a_context_of_its_own() -> None:
    async def tool(ctx: Context) -> None: ...

    with pytest.raises(ValidationError):
        Signature(tool).checked({"ctx": {}})


# Descriptions


def test_the_docstring_is_the_description() -> None:
    def tool() -> None:
        """Say it back.

        Indented as code is:
            kept.
        """

    def silent() -> None: ...

    assert Signature(tool).summary == "Say it back.\n\nIndented as code is:\n    kept."
    assert Signature(silent).summary is None


# Running


async def test_every_kind_of_callable_can_be_a_tool() -> None:
    class Adder:
        """Adds."""

        def __init__(self, base: int) -> None:
            self.base = base

        async def __call__(self, n: int) -> int:
            return self.base + n

        def method(self, n: int) -> int:
            """Add in a method."""
            return self.base + n

        @staticmethod
        async def static(n: int) -> int:
            return 10 + n

    def plain(n: int, base: int = 10) -> int:
        """Add plainly."""
        return base + n

    def logged(function: Callable[[int], Awaitable[int]]) -> Callable[[int], Awaitable[int]]:
        @functools.wraps(function)
        def wrapper(n: int) -> Awaitable[int]:  # no coroutine function, but what it returns can be awaited
            return function(n)

        return wrapper

    @logged
    async def wrapped(n: int) -> int:
        """Add, wrapped."""
        return 10 + n

    adder = Adder(10)
    cases: list[tuple[Function, str, str | None]] = [
        (adder, "Adder", "Adds."),
        (adder.method, "method", "Add in a method."),
        (Adder.static, "static", None),
        (functools.partial(plain, base=10), "plain", "Add plainly."),
        (wrapped, "wrapped", "Add, wrapped."),
    ]
    for function, name, summary in cases:
        signature = Signature(function)
        assert (signature.name, signature.summary) == (name, summary)
        assert await signature.run(signature.checked({"n": 1}), context()) == 11, name
    assert schema_of(adder)["properties"]["n"]["type"] == "integer"
    assert schema_of(functools.partial(plain, base=10))["required"] == ["n"]


variable: ContextVar[str] = ContextVar("variable", default="")


async def test_context_variables_reach_a_function_in_a_thread_and_stay_there() -> None:
    def tool() -> tuple[str, bool]:
        seen = variable.get()
        variable.set("changed")
        return seen, threading.current_thread() is threading.main_thread()

    variable.set("of the caller")
    assert await run(tool) == ("of the caller", False)
    assert variable.get() == "of the caller"


async def test_a_coroutine_runs_in_the_callers_loop() -> None:
    async def tool() -> object:
        return asyncio.get_running_loop()

    assert await run(tool) is asyncio.get_running_loop()


# Modules


@pytest.mark.parametrize("future", ["from __future__ import annotations\n", ""])
def test_a_module_may_postpone_its_annotations_or_not(future: str) -> None:
    module = module_of(
        future
        + """
from pydantic import BaseModel
from fabric_sdk import Context, Event, Stream

class Item(BaseModel):
    name: str

def tool(item: Item, ctx: Context, many: "list[Item]" = []) -> Item:
    return item
"""
    )
    signature = Signature(module.tool)
    assert list(signature.input_schema()["properties"]) == ["item", "many"]
    assert signature.returns is module.Item
    assert signature.context_parameter == "ctx"


def test_what_is_wrong_is_explained_in_one_line_for_each_argument() -> None:
    def tool(a: int, b: Person) -> None: ...

    with pytest.raises(ValidationError) as wrong:
        Signature(tool).checked({"a": "x", "b": {"name": "y", "address": {"street": "z", "number": 0}}, "c": 1})
    lines = explain(wrong.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["a", "b.address.number", "c"]
    assert "http" not in explain(wrong.value)


# reactions and streams


async def with_context(event: Event, ctx: Context) -> None: ...
async def with_context_first(ctx: Context, event: Event) -> None: ...
async def with_some_context(event: Event, ctx: Context | None = None) -> None: ...
async def with_annotated_context(event: Event, ctx: Annotated[Context, "this call's"]) -> None: ...
async def without_context(event: Event) -> None: ...
async def with_two(event: Event, other: int) -> None: ...
async def with_none() -> None: ...
def in_a_thread(event: Event) -> None: ...


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (with_context, ("event", "ctx")),
        (with_context_first, ("event", "ctx")),
        (with_some_context, ("event", "ctx")),
        (with_annotated_context, ("event", "ctx")),
        (without_context, ("event", None)),
        (with_two, None),
        (with_none, None),
        (in_a_thread, None),
    ],
)
def test_a_context_is_known_by_its_type_in_whatever_is_given_one_thing(
    function: Function, expected: tuple[str, str | None] | None
) -> None:
    assert only_parameter(function) == expected
    for made in (lambda: Reaction(("a",), function), lambda: Streaming(function)):
        if expected is not None:
            made()
        else:
            with pytest.raises(ConfigurationError, match="with a Context"):
                made()


async def test_a_stream_handler_gets_the_context_that_it_may_do_without() -> None:
    got: list[Any] = []

    async def handle(stream: Stream, ctx: Context | None = None) -> None:
        got.append((stream, ctx))

    stream, context = cast("Stream", object()), Context(Scope(time.time() + 5))
    await Streaming(handle).run(stream, context)
    assert got == [(stream, context)]


def test_a_type_that_cannot_be_seen_is_told_as_for_a_tool() -> None:
    async def react(event: Unseen) -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]

    with pytest.raises(ConfigurationError, match="react: name 'Unseen' is not defined"):
        Reaction(("a",), cast("Function", react))
