"""What an author writes, as MCP shows it: tools, resources, prompts and their results. Proves: PT-1, RT-1."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Optional
from urllib.parse import quote

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from fabric_sdk import Agent, Audio, Context, Image, ResourceLink, ToolError
from fabric_sdk.authoring.content import Block
from fabric_sdk.authoring.resource import Resource
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import ConfigurationError, HandlerFailed, InvalidParams, UnknownMethod, UnknownName
from fabric_sdk.contracts.scope import Scope
from fabric_sdk.pipeline import Request, compose
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker

pytestmark = pytest.mark.anyio

SERVER_INFO = "io.modelcontextprotocol/serverInfo"
WRAPPED = "fabric/wrapped"


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    """A thing."""

    name: str
    colour: Colour = Colour.RED
    parts: list[Item] = []


class Inner(BaseModel):
    when: datetime


class Outer(BaseModel):
    inner: Inner


@dataclass
class Point:
    x: float
    y: float


class Row(TypedDict):
    id: int


def context() -> Context:
    return Context(Scope(time.time() + 5))


async def ask(agent: Agent, method: str, params: Any) -> dict[str, Any]:
    """The answer of an agent, as it would leave the process."""
    answer = await agent.handle(context(), Request(method, Body(params)))
    return json.loads(answer.encoded())


async def call(agent: Agent, tool: str, **arguments: Any) -> dict[str, Any]:
    return await ask(agent, "tools/call", {"name": tool, "arguments": arguments})


def tool_of(function: Callable[..., Any]) -> tuple[Agent, dict[str, Any]]:
    """An agent with this one tool, and how it is described."""
    agent = Agent("one")
    agent.tool(function)
    return agent, next(iter(agent._tools.values())).described  # pyright: ignore[reportPrivateUsage]


# Results


def integer() -> int:
    return 7


def text() -> str:
    return "déjà"


def listed() -> list[Item]:
    return [Item(name="a"), Item(name="b", parts=[Item(name="c")])]


def recursive() -> Item:
    return Item(name="a")


def nested() -> Outer:
    return Outer(inner=Inner(when=datetime(2026, 11, 20, tzinfo=UTC)))


def point() -> Point:
    return Point(1, 2.5)


def row() -> Row:
    return {"id": 1}


def table() -> dict[str, float]:
    return {"a": 1}


def maybe() -> Optional[int]:  # noqa: UP045 - as people still write it
    return None


def either() -> Item | int:
    return 3


def moment() -> datetime:
    return datetime(2026, 11, 20, 12, tzinfo=UTC)


def pair() -> tuple[int, str]:
    return 1, "x"


def colour() -> Colour:
    return Colour.RED


def flag() -> bool:
    return False


RESULTS: list[tuple[Callable[..., Any], dict[str, Any], str | None]] = [
    (integer, {"result": 7}, "7"),
    (text, {"result": "déjà"}, "déjà"),
    (recursive, {"result": {"name": "a", "colour": "red", "parts": []}}, None),
    (nested, {"inner": {"when": "2026-11-20T00:00:00Z"}}, None),
    (point, {"x": 1.0, "y": 2.5}, '{"x":1.0,"y":2.5}'),
    (row, {"id": 1}, '{"id":1}'),
    (table, {"a": 1.0}, '{"a":1.0}'),
    (maybe, {"result": None}, "null"),
    (either, {"result": 3}, "3"),
    (moment, {"result": "2026-11-20T12:00:00Z"}, "2026-11-20T12:00:00Z"),
    (pair, {"result": [1, "x"]}, '[1,"x"]'),
    (colour, {"result": "red"}, "red"),
    (flag, {"result": False}, "false"),
    (
        listed,
        {
            "result": [
                {"name": "a", "colour": "red", "parts": []},
                {"name": "b", "colour": "red", "parts": [{"name": "c", "colour": "red", "parts": []}]},
            ]
        },
        None,
    ),
]


@pytest.mark.parametrize(("function", "structured", "said"), RESULTS)
async def test_a_declared_result_is_structured_as_its_schema_says(
    function: Callable[..., Any], structured: dict[str, Any], said: str | None
) -> None:
    agent, described = tool_of(function)
    schema = described["outputSchema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    result = await call(agent, function.__name__)
    assert result["structuredContent"] == structured
    jsonschema.validate(structured, schema, jsonschema.Draft202012Validator)
    [block] = result["content"]
    assert block["type"] == "text"
    if said is None:
        assert json.loads(block["text"]) == structured.get("result", structured)
    else:
        assert block["text"] == said
    assert result["resultType"] == "complete"
    assert result["_meta"][SERVER_INFO] == {"name": "one", "version": "0.0.0"}
    assert result["_meta"].get(WRAPPED, False) is ("result" in structured)
    assert "isError" not in result


@pytest.mark.parametrize(
    "value", [{"a": [1, None]}, [1, "x"], 7, 1.5, True, False, {"when": datetime(2026, 1, 1, tzinfo=UTC)}]
)
async def test_a_result_of_no_declared_type_keeps_its_value(value: Any) -> None:
    async def undeclared() -> Any:
        return value

    agent, described = tool_of(undeclared)
    assert "outputSchema" not in described
    result = await call(agent, "undeclared")
    expected = json.loads(json.dumps(value, default=lambda when: "2026-01-01T00:00:00Z"))
    structured = result["structuredContent"]
    assert isinstance(structured, dict), "as the older revisions of MCP demand"
    assert (structured["result"] if result["_meta"].get(WRAPPED) else structured) == expected
    assert json.loads(result["content"][0]["text"]) == expected


@pytest.mark.parametrize("value", ["text", "", None])
async def test_text_and_nothing_need_no_structure(value: str | None) -> None:
    async def undeclared() -> Any:
        return value

    result = await call(tool_of(undeclared)[0], "undeclared")
    assert result["content"] == ([] if value is None else [{"type": "text", "text": value}])
    assert "structuredContent" not in result


def nothing() -> None: ...


async def test_a_tool_that_returns_nothing_says_so() -> None:
    agent, described = tool_of(nothing)
    assert "outputSchema" not in described
    assert (await call(agent, "nothing"))["content"] == []


PNG = b"\x89PNG\xff\x00"


def image() -> Image:
    return Image(PNG)


def sound() -> Audio:
    return Audio(b"RIFF", "audio/mpeg")


def link() -> ResourceLink:
    return ResourceLink("notes://today", "today")


def images() -> list[Image]:
    return [Image(PNG), Image(PNG, "image/webp")]


def mixed() -> list[str | Image]:
    return ["before", Image(PNG), "after"]


def blocks() -> list[Block]:
    return [Image(PNG), ResourceLink("notes://today", "today")]


def image_or_none() -> Image | None:
    return Image(PNG)


def undeclared_mix() -> Any:
    return "see", Image(PNG), None, {"when": datetime(2026, 1, 1, tzinfo=UTC)}


IMAGE = {"type": "image", "data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("function", "content"),
    [
        (image, [IMAGE]),
        (sound, [{"type": "audio", "data": base64.b64encode(b"RIFF").decode(), "mimeType": "audio/mpeg"}]),
        (link, [{"type": "resource_link", "uri": "notes://today", "name": "today"}]),
        (images, [IMAGE, {**IMAGE, "mimeType": "image/webp"}]),
        (mixed, [{"type": "text", "text": "before"}, IMAGE, {"type": "text", "text": "after"}]),
        (blocks, [IMAGE, {"type": "resource_link", "uri": "notes://today", "name": "today"}]),
        (image_or_none, [IMAGE]),
        (
            undeclared_mix,
            [{"type": "text", "text": "see"}, IMAGE, {"type": "text", "text": '{"when":"2026-01-01T00:00:00Z"}'}],
        ),
    ],
)
async def test_content_blocks_come_as_they_are(function: Callable[..., Any], content: list[Any]) -> None:
    agent, described = tool_of(function)
    assert "outputSchema" not in described
    result = await call(agent, function.__name__)
    assert result["content"] == content
    assert "structuredContent" not in result


async def test_what_a_tool_raises_is_a_result_for_a_model_to_read(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("failing")

    @agent.tool
    async def refuse() -> int:
        raise ToolError("no eggs", fix="buy some")

    @agent.tool
    async def crash() -> int:
        raise RuntimeError("bad file name \udcff")

    refused, crashed = await call(agent, "refuse"), await call(agent, "crash")
    assert refused["isError"] is crashed["isError"] is True
    assert refused["content"][0]["text"].startswith("no eggs")
    assert crashed["content"] == [{"type": "text", "text": "crash failed: RuntimeError: bad file name ?"}]
    assert "structuredContent" not in refused
    assert "Traceback" in caplog.text, "the author finds it in the worker's log"


# Descriptions


async def test_a_description_holds_everything_in_mcps_own_forms() -> None:
    agent = Agent("described", version="1.2.3", description="For tests.", instructions="Call it.", kind="platform")

    @agent.tool(title="Look!", annotations={"readOnlyHint": True}, meta={"ui": "x"})
    async def look(where: str) -> str:
        """Look there."""
        return where

    @agent.tool(name="other.name-2", description="Said here.")
    async def other() -> None:
        """Not said."""

    @agent.resource("notes://today", title="Today", description="Now.", mime_type="text/markdown")
    def today() -> str:
        return "x"

    @agent.resource("notes://{day}", name="by-day")
    def note(day: str) -> str:
        """A note."""
        return day

    @agent.prompt(title="Hello")
    def greet(who: str, how: str = "warmly") -> str:
        """Greet somebody."""
        return f"{who} {how}"

    said = await agent.describe()
    assert (said.name, said.version, said.description, said.instructions, said.kind) == (
        *("described", "1.2.3", "For tests.", "Call it.", "platform"),
    )
    look_said, other_said = said.tools
    assert {name: look_said[name] for name in ("name", "title", "description", "annotations", "_meta")} == {
        "name": "look",
        "title": "Look!",
        "description": "Look there.",
        "annotations": {"readOnlyHint": True},
        "_meta": {"ui": "x"},
    }
    assert (other_said["name"], other_said["description"]) == ("other.name-2", "Said here.")
    assert "title" not in other_said
    assert said.resources == [
        {
            "uri": "notes://today",
            "name": "today",
            "title": "Today",
            "description": "Now.",
            "mimeType": "text/markdown",
        }
    ]
    assert said.resource_templates == [{"uriTemplate": "notes://{day}", "name": "by-day", "description": "A note."}]
    assert said.prompts == [
        {
            "name": "greet",
            "title": "Hello",
            "description": "Greet somebody.",
            "arguments": [{"name": "who", "required": True}, {"name": "how", "required": False}],
        }
    ]
    assert said.tool("look") == look_said
    assert said.tool("absent") is None


async def test_a_digest_changes_with_what_is_offered_and_with_nothing_else() -> None:
    def one(description: str = "x", **options: Any) -> Agent:
        agent = Agent("digested", **options)

        @agent.tool(description=description)
        async def look() -> None: ...

        return agent

    same = (await one().describe()).digest
    assert (await one().describe()).digest == same
    assert len(same) == 16
    for other in (one("y"), one(version="2.0.0"), one(instructions="z")):
        assert (await other.describe()).digest != same


# Names


@pytest.mark.parametrize("name", ["a", "a-b", "a" * 63, "r2-d2"])
def test_a_dns_label_names_an_agent(name: str) -> None:
    assert Agent(name).name == name


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a.b", "a b", "a" * 64, "é", "a\n", "*", ">"])
def test_anything_else_names_no_agent(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name an agent") as refused:
        Agent(name)
    assert refused.value.fix


@pytest.mark.parametrize("name", ["", "two words", "a/b", "é", "x" * 129, "a\n", "<lambda>"])
def test_a_name_that_no_client_takes_names_no_tool(name: str) -> None:
    async def function() -> None: ...

    if not name:
        function.__name__ = ""
    with pytest.raises(ConfigurationError, match="cannot name a tool") as refused:
        Agent("named").tool(name=name)(function)
    assert refused.value.fix


def test_a_name_is_given_once() -> None:
    agent = Agent("twice")

    @agent.tool
    async def one() -> None: ...

    @agent.prompt
    def ask_for() -> str:
        return ""

    @agent.resource("a://b")
    def read() -> str:
        return ""

    with pytest.raises(ConfigurationError, match="a tool 'one' already"):
        agent.tool(name="one")(lambda: None)
    with pytest.raises(ConfigurationError, match="a prompt 'ask_for' already"):
        agent.prompt(name="ask_for")(lambda: "")
    with pytest.raises(ConfigurationError, match="a resource 'a://b' already"):
        agent.resource("a://b")(lambda: "")


def test_a_decorator_gives_the_function_back() -> None:
    agent = Agent("decorated")

    def function() -> str:
        return "x"

    assert agent.tool(function) is function
    assert agent.tool(name="again")(function) is function
    assert agent.resource("a://b")(function) is function
    assert agent.prompt(function) is function
    assert repr(agent) == "<Agent decorated 0.0.0: 2 tools>"


def test_a_resource_decorator_without_a_uri_is_refused() -> None:
    def function() -> str:
        return "x"

    with pytest.raises(ConfigurationError, match="resource") as refused:
        Agent("decorated").resource(function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert refused.value.fix


def unknown_return() -> Callable[[], int]:
    return integer


class Opaque: ...


def opaque_return() -> Opaque:
    return Opaque()


@pytest.mark.parametrize("function", [unknown_return, opaque_return])
def test_a_return_type_without_a_schema_is_refused_where_it_is_written(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=function.__name__) as refused:
        Agent("refusing").tool(function)
    assert refused.value.fix


# Resources


def resource(template: str) -> Resource:
    """A resource whose function takes the template's variables and returns them."""
    names = [part.split("}")[0].lstrip("+") for part in template.split("{")[1:]]
    namespace: dict[str, Any] = {}
    exec(f"def read({', '.join(f'{name}: str' for name in names)}): return ''", namespace)
    return Resource(template, namespace["read"])


@pytest.mark.parametrize(
    ("template", "uri", "variables"),
    [
        ("notes://today", "notes://today", {}),
        ("notes://today", "notes://tomorrow", None),
        ("notes://today", "notes://today/", None),
        ("notes://{day}", "notes://2026-11-20", {"day": "2026-11-20"}),
        ("notes://{day}", "notes://", None),
        ("notes://{day}", "notes://a/b", None),
        ("notes://{day}", "notes://a?b", None),
        ("notes://{day}", "notes://a%2Fb%20c", {"day": "a/b c"}),
        ("notes://{day}", "notes://Z%C3%BCrich", {"day": "Zürich"}),
        ("notes://{day}", "notes://Zürich", {"day": "Zürich"}),
        ("notes://{day}", "NOTES://a", None),
        ("notes://{year}/{month}", "notes://2026/11", {"year": "2026", "month": "11"}),
        ("notes://{year}/{month}", "notes://2026", None),
        ("file:///{+path}", "file:///a/b/c.txt", {"path": "a/b/c.txt"}),
        ("file:///{+path}", "file:///", None),
        ("file:///{+path}.{kind}", "file:///a.b/c.txt", {"path": "a.b/c", "kind": "txt"}),
        ("a+b://(x)/{id}", "a+b://(x)/1", {"id": "1"}),
        ("a+b://(x)/{id}", "aab://x/1", None),
    ],
)
def test_a_template_read_backwards(template: str, uri: str, variables: dict[str, str] | None) -> None:
    assert resource(template).match(uri) == variables


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_is_percent_encoded_into_a_template_comes_out_again(one: str, two: str) -> None:
    try:
        uri = f"notes://{quote(one, safe='')}/{quote(two, safe='/')}"
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert resource("notes://{one}/{+two}").match(uri) == {"one": one, "two": two}


@pytest.mark.parametrize("template", ["a://{b", "a://b}", "a://{?b}", "a://{b*}", "a://{b,c}", "a://{}", "a://{b:3}"])
def test_a_template_of_another_level_is_refused(template: str) -> None:
    def read() -> str:
        return ""

    with pytest.raises(ConfigurationError) as refused:
        Resource(template, read)
    assert refused.value.fix


def test_a_template_and_its_function_name_the_same_variables() -> None:
    def read(day: str, other: str) -> str:
        return day + other

    for uri in ("notes://{day}", "notes://today", "notes://{day}/{other}/{third}", "notes://{day}/{day}"):
        with pytest.raises(ConfigurationError, match=r"names .* takes") as refused:
            Resource(uri, read)
        assert refused.value.fix


async def test_resources_are_read_with_their_types() -> None:
    agent = Agent("reading")

    @agent.resource("bytes://x")
    def raw() -> bytes:
        return PNG

    @agent.resource("png://x", mime_type="image/png")
    async def picture() -> bytes:
        return PNG

    @agent.resource("json://x")
    async def data() -> dict[str, Any]:
        return {"a": datetime(2026, 1, 1, tzinfo=UTC)}

    @agent.resource("model://x")
    async def item() -> Item:
        return Item(name="a")

    @agent.resource("sum://{a}/{b}", mime_type="text/x-sum")
    async def total(b: int, a: int, ctx: Context) -> str:
        assert isinstance(ctx, Context)
        return str(a + b)

    async def read(uri: str) -> dict[str, Any]:
        answer = await ask(agent, "resources/read", {"uri": uri})
        assert (answer["resultType"], answer["ttlMs"], answer["cacheScope"]) == ("complete", 0, "private")
        [content] = answer["contents"]
        assert content.pop("uri") == uri
        return content

    encoded = base64.b64encode(PNG).decode()
    assert await read("bytes://x") == {"mimeType": "application/octet-stream", "blob": encoded}
    assert await read("png://x") == {"mimeType": "image/png", "blob": encoded}
    assert await read("json://x") == {"mimeType": "application/json", "text": '{"a":"2026-01-01T00:00:00Z"}'}
    item_read = await read("model://x")
    assert json.loads(item_read["text"]) == {"name": "a", "colour": "red", "parts": []}
    assert await read("sum://1/2") == {"mimeType": "text/x-sum", "text": "3"}
    with pytest.raises(InvalidParams, match="sum://1/x: b: Input should be a valid integer"):
        await read("sum://1/x")
    with pytest.raises(UnknownName, match="no resource 'sum://1'") as unknown:
        await read("sum://1")
    assert unknown.value.data == {"uri": "sum://1"}


async def test_a_resource_at_its_own_uri_comes_before_any_template() -> None:
    agent = Agent("ordered")

    @agent.resource("notes://{day}")
    def any_day(day: str) -> str:
        return f"any: {day}"

    @agent.resource("notes://today")
    def today() -> str:
        return "today itself"

    for uri, text in (("notes://today", "today itself"), ("notes://monday", "any: monday")):
        assert (await ask(agent, "resources/read", {"uri": uri}))["contents"][0]["text"] == text


# Prompts


async def test_prompts_make_messages_of_all_that_can_be_one() -> None:
    agent = Agent("prompting")

    @agent.prompt
    async def one(who: str, times: int = 1) -> str:
        """Greet."""
        return " ".join([who] * times)

    @agent.prompt
    def many(ctx: Context) -> list[Any]:
        return [
            "as a user",
            {"role": "assistant", "content": "as itself"},
            {"role": "user", "content": {"type": "text", "text": "in full"}},
            Image(PNG),
        ]

    answer = await ask(agent, "prompts/get", {"name": "one", "arguments": {"who": "hi", "times": "2"}})
    assert answer["messages"] == [{"role": "user", "content": {"type": "text", "text": "hi hi"}}]
    assert answer["description"] == "Greet."
    assert answer["resultType"] == "complete"
    assert answer["_meta"] == {SERVER_INFO: {"name": "prompting", "version": "0.0.0"}}
    answer = await ask(agent, "prompts/get", {"name": "many"})
    assert answer["messages"] == [
        {"role": "user", "content": {"type": "text", "text": "as a user"}},
        {"role": "assistant", "content": {"type": "text", "text": "as itself"}},
        {"role": "user", "content": {"type": "text", "text": "in full"}},
        {"role": "user", "content": IMAGE},
    ]
    with pytest.raises(InvalidParams, match="invalid arguments for prompt one:\nwho: Field required"):
        await ask(agent, "prompts/get", {"name": "one"})
    with pytest.raises(InvalidParams, match="invalid arguments for prompt many"):
        await ask(agent, "prompts/get", {"name": "many", "arguments": [1]})
    with pytest.raises(UnknownName, match="no prompt 'absent'"):
        await ask(agent, "prompts/get", {"name": "absent"})


# Handling


async def test_what_an_agent_does_not_serve_is_refused() -> None:
    agent = Agent("handling")
    with pytest.raises(UnknownMethod, match="does not serve 'tools/list'"):
        await ask(agent, "tools/list", {})
    with pytest.raises(InvalidParams, match="params: "):
        await agent.handle(context(), Request("tools/call", Body(encoded=b"{")))


async def test_middleware_stands_around_the_handler_in_the_order_of_the_list() -> None:
    log = list[str]()

    def middleware(name: str) -> Any:
        def wrap(handler: Any) -> Any:
            async def handle(context: Context, request: Request) -> Body:
                log.append(f"{name} in")
                answer = await handler(context, request)
                log.append(f"{name} out")
                return answer

            return handle

        return wrap

    async def innermost(context: Context, request: Request) -> Body:
        log.append(request.method)
        return Body({})

    await compose(innermost, [middleware("a"), middleware("b")])(context(), Request("m", Body({})))
    assert log == ["a in", "b in", "m", "b out", "a out"]
    assert compose(innermost, []) is innermost


async def test_a_context_drops_progress_that_does_not_grow() -> None:
    sent = list[tuple[str, str, dict[str, Any]]]()

    async def emit(reply: str, kind: str, frame: dict[str, Any]) -> None:
        sent.append((reply, kind, frame))

    ctx = Context(Scope(time.time() + 5, "alice"), agent="a", reply="r", emit=emit)
    for progress in (0, 1, 1, 0.5, 2.5):
        await ctx.progress(progress, 3)
    await ctx.progress(3, message="done")
    await ctx.error({"a": 1})
    await ctx.log("notice", "x", logger="mine")
    assert sent == [
        ("r", "progress", {"progress": 0, "total": 3}),
        ("r", "progress", {"progress": 1, "total": 3}),
        ("r", "progress", {"progress": 2.5, "total": 3}),
        ("r", "progress", {"progress": 3, "message": "done"}),
        ("r", "log", {"level": "error", "data": {"a": 1}, "logger": "a"}),
        ("r", "log", {"level": "notice", "data": "x", "logger": "mine"}),
    ]
    assert ctx.principal == "alice"
    assert 0 < ctx.remaining <= 5
    await Context(Scope(time.time())).progress(1)  # outside a worker, it goes nowhere


async def test_a_handler_failure_of_the_fabrics_own_passes_through_a_tool() -> None:
    agent = Agent("passing")

    @agent.tool
    async def fail() -> None:
        raise HandlerFailed("as it is", data={"a": 1})

    with pytest.raises(HandlerFailed, match="as it is") as failed:
        await call(agent, "fail")
    assert failed.value.data == {"a": 1}


@pytest.mark.parametrize("name", ["registry", "durable", "access", "approvals", "audit"])
async def test_no_agent_is_served_under_the_name_of_a_part_of_the_platform(name: str) -> None:
    """It would be given half of its calls, and speak for it in the catalogue."""
    bus = MemoryTransport()
    with pytest.raises(ConfigurationError, match="part of the fabric itself"):
        await Worker(bus, Agent(name)).start()
    worker = Worker(bus, Agent(name, kind="platform"))
    await worker.start()
    await worker.drain(0.0)
    await bus.close()
