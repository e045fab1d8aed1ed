"""Calls between a client and workers, on every transport. Proves: PT-1, CM-1, CM-2, MB-1, RT-1."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import nats.micro.service as micro
import pytest
from support.waiting import Ear, eventually

from fabric_sdk import Agent, Context, Fabric, ToolError
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Scope, Trace, scope_for
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.patterns import call as calling
from fabric_sdk.patterns.call import Call
from fabric_sdk.pipeline import Handler, Request
from fabric_sdk.remote import AgentClient
from fabric_sdk.transports.base import Subscription, Transport
from fabric_sdk.worker import Limits, Worker
from tests.contract.conftest import MemoryBus, Stage, settled

pytestmark = pytest.mark.anyio

_numbers = count()


@pytest.fixture
def name() -> str:
    """An agent's name that no other test has; the server is shared."""
    return f"agent-{next(_numbers)}"


class Gate:
    """Holds a handler until a test lets it go, and tells how many have come to it."""

    def __init__(self) -> None:
        self.reached = 0
        self._open = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()

    async def reached_by(self, number: int = 1) -> None:
        await eventually(lambda: self.reached >= number, what=f"the arrival of {number} calls")


# Answers


async def test_the_value_comes_back(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def echo(value: Any) -> Any:
        return {"said": value}

    @agent.tool
    async def add(left: int, right: int = 10) -> int:
        return left + right

    @agent.tool
    async def nothing() -> None: ...

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    assert await client.call("add", {"left": 1}) == 11
    assert await client.call("add", {"left": 1, "right": 1}) == 2
    assert await client.call("nothing") is None


@pytest.mark.parametrize("value", ["", "text", 0, -1.5, True, None, [], {}, [1, "a", None, {"b": [True]}], {"é": "漢"}])
async def test_a_json_value_is_the_same_over_every_transport(stage: Stage, name: str, value: Any) -> None:
    agent = Agent(name)

    @agent.tool
    async def declared(
        value: str | int | float | bool | list[Any] | dict[str, Any] | None,
    ) -> str | int | float | bool | list[Any] | dict[str, Any] | None:
        return value

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    answer = await client.call("declared", {"value": value})
    assert answer == value
    assert type(answer) is type(value)


async def test_resources_prompts_and_the_description_are_answered(stage: Stage, name: str) -> None:
    agent = Agent(name, version="1.2.3", description="For tests.", instructions="Call it.")

    @agent.tool(annotations={"readOnlyHint": True})
    async def look() -> str:
        return "seen"

    @agent.resource("notes://{day}")
    async def note(day: str, ctx: Context) -> str:
        return f"note of {day} by {ctx.agent}"

    @agent.prompt
    async def greet(who: str) -> list[Any]:
        return [f"Greet {who}.", {"role": "assistant", "content": {"type": "text", "text": "Hello!"}}]

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    [content] = await client.read("notes://2026-11-20")
    assert content == {
        "uri": "notes://2026-11-20",
        "mimeType": "text/plain",
        "text": f"note of 2026-11-20 by {name}",
    }
    assert await client.prompt("greet", {"who": "Zoë"}) == [
        {"role": "user", "content": {"type": "text", "text": "Greet Zoë."}},
        {"role": "assistant", "content": {"type": "text", "text": "Hello!"}},
    ]
    described = await client.describe()
    assert described == await agent.describe()
    assert isinstance(described, Description)
    assert await client.describe(instance=worker.instance) == described


async def test_answers_find_their_callers_among_many(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def echo(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 7))
        return number

    await stage.serve(agent, limits=Limits(concurrency=16))
    await stage.serve(agent)
    clients = [(await stage.client()).agent(name) for _ in range(2)]
    numbers = range(300)
    answers = await asyncio.gather(*(clients[n % 2].call("echo", {"number": n}) for n in numbers))
    assert answers == list(numbers)


# What goes wrong in a tool, or before it


async def test_a_tool_reports_an_error_in_its_own_words(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def refuse() -> None:
        raise ToolError("the cupboard is bare")

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    with pytest.raises(ToolError, match=r"^the cupboard is bare$") as refused:
        await client.call("refuse")
    assert refused.value.data == [{"type": "text", "text": "the cupboard is bare"}]
    assert worker.served == 1, "a tool's own error is an answer like any other"


async def test_what_a_tool_raises_comes_back_as_its_error(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def crash() -> None:
        raise KeyError("missing")

    @agent.tool
    def crash_in_a_thread() -> None:
        raise ValueError("worse")

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    with pytest.raises(ToolError, match="crash failed: KeyError: 'missing'"):
        await client.call("crash")
    with pytest.raises(ToolError, match="crash_in_a_thread failed: ValueError: worse"):
        await client.call("crash_in_a_thread")


async def test_a_tool_that_exits_ends_its_call_and_not_the_worker(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def leave() -> None:
        raise SystemExit(3)

    @agent.tool
    def leave_a_thread() -> None:
        raise SystemExit("bad arguments")

    @agent.resource("exit://now")
    async def leave_a_resource() -> str:
        raise SystemExit

    @agent.tool
    async def stay() -> str:
        return "still here"

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    for tool in ("leave", "leave_a_thread"):
        with pytest.raises(ToolError, match="SystemExit"):
            await client.call(tool, timeout=5)
    with pytest.raises(errors.HandlerFailed, match="SystemExit"):
        await client.read("exit://now", timeout=5)
    assert await client.call("stay", timeout=5) == "still here"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "count: Field required"),
        ({"count": "many"}, "count: Input should be a valid integer"),
        ({"count": 1, "colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"count": 1, "tags": [1]}, "tags.0: Input should be a valid string"),
    ],
)
async def test_arguments_that_do_not_fit_are_explained_to_the_caller(
    stage: Stage, name: str, arguments: dict[str, Any], complaint: str
) -> None:
    agent, begun = Agent(name), list[int]()

    @agent.tool
    async def work(count: int, tags: list[str] | None = None) -> None:
        begun.append(count)

    await stage.serve(agent)
    client = await stage.client()
    with pytest.raises(ToolError, match=f"invalid arguments for work:\n{complaint}"):
        await client.agent(name).call("work", arguments)
    body = Body({"name": "work", "arguments": arguments})
    result = (await client.caller.call(Call(name, "tools/call", body, scope_for(5)))).members()
    assert result["isError"] is True, "for a model to read, and to try again"
    assert begun == []


@pytest.mark.parametrize(
    ("method", "params", "kind", "complaint"),
    [
        ("tools/call", {"name": "absent"}, errors.InvalidParams, "has no tool 'absent'"),
        ("tools/call", {}, errors.InvalidParams, "has no tool None"),
        ("tools/call", {"name": ["a", "list"]}, errors.InvalidParams, "has no tool"),
        ("tools/call", {"name": {}}, errors.InvalidParams, "has no tool"),
        ("tools/call", [1, 2], errors.InvalidParams, "not a JSON object but list"),
        ("tools/call", None, errors.InvalidParams, "not a JSON object but NoneType"),
        ("resources/read", {"uri": "absent://"}, errors.InvalidParams, "has no resource 'absent://'"),
        ("resources/read", {"uri": 7}, errors.InvalidParams, "params.uri must be a string"),
        ("prompts/get", {"name": "absent"}, errors.InvalidParams, "has no prompt 'absent'"),
        ("prompts/get", {"name": [1]}, errors.InvalidParams, "has no prompt"),
        ("tools/dance", {}, errors.UnknownMethod, "does not serve 'tools/dance'"),
    ],
)
async def test_a_request_that_names_nothing_there_is_refused(
    stage: Stage, name: str, method: str, params: Any, kind: type[errors.FabricError], complaint: str
) -> None:
    agent = Agent(name)

    @agent.tool
    async def present() -> None: ...

    await stage.serve(agent)
    client = await stage.client()
    with pytest.raises(kind, match=complaint) as refused:
        await client.caller.call(Call(name, method, Body(params), scope_for(5), safe=True))
    assert not refused.value.started
    assert not refused.value.retryable


@pytest.mark.parametrize("arguments", [[], "", 0, False, "text", [1]])
async def test_arguments_that_are_no_object_are_refused(stage: Stage, name: str, arguments: Any) -> None:
    agent = Agent(name)

    @agent.tool
    async def present() -> None: ...

    await stage.serve(agent)
    client = await stage.client()
    body = Body({"name": "present", "arguments": arguments})
    result = (await client.caller.call(Call(name, "tools/call", body, scope_for(5)))).members()
    assert result["isError"] is True
    assert "arguments" in result["content"][0]["text"]


async def test_a_body_that_is_not_json_is_refused(stage: Stage, name: str) -> None:
    await stage.serve(Agent(name))
    client = await stage.client()
    with pytest.raises(errors.InvalidParams, match="params: "):
        await client.caller.call(Call(name, "tools/call", Body(encoded=b'{"name": '), scope_for(5)))


async def test_what_cannot_be_encoded_is_the_tools_failure(nats_stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def declared() -> object:
        return object()

    @agent.tool
    async def undeclared():  # type: ignore[no-untyped-def]  # noqa: ANN202, RUF100
        return {"a": object()}

    @agent.tool
    async def wrong() -> int:
        return "eleven"  # type: ignore[return-value]

    @agent.tool
    async def surrogates() -> str:
        return "\ud800"

    await nats_stage.serve(agent)
    client = (await nats_stage.client()).agent(name)
    for tool in ("declared", "undeclared", "wrong", "surrogates"):
        with pytest.raises(errors.HandlerFailed) as failed:
            await client.call(tool, timeout=5)
        assert str(failed.value), tool
        assert not failed.value.retryable


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800"])
async def test_arguments_that_cannot_be_encoded_are_the_callers_mistake(
    nats_stage: Stage, name: str, value: object
) -> None:
    client = (await nats_stage.client()).agent(name)
    with pytest.raises(errors.InvalidParams, match="no JSON form"):
        await client.call("work", {"value": value})


async def test_an_answer_that_is_too_large_is_said_to_be_so(nats_stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def flood() -> str:
        return "x" * 2_000_000

    @agent.resource("flood://")
    async def fail() -> str:
        raise RuntimeError("x" * 2_000_000)

    await nats_stage.serve(agent)
    client = (await nats_stage.client()).agent(name)
    with pytest.raises(errors.HandlerFailed, match="the answer is too large: the message has 4000") as failed:
        await client.call("flood", timeout=5)
    assert failed.value.started, "the work was done"
    with pytest.raises(errors.HandlerFailed):
        await client.read("flood://", timeout=5)


async def test_an_error_that_cannot_be_encoded_still_ends_the_call(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.resource("data://")
    async def data() -> str:
        raise errors.HandlerFailed("see the data", data={"an": object()})

    @agent.resource("text://")
    async def text() -> str:
        raise RuntimeError("cannot read \udcff")  # as of a file name that is no UTF-8

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    with pytest.raises(errors.HandlerFailed, match="see the data"):
        await client.read("data://", timeout=5)
    with pytest.raises(errors.HandlerFailed, match="cannot read"):
        await client.read("text://", timeout=5)


# Deadlines


async def test_a_call_ends_at_its_deadline_on_both_sides(stage: Stage, name: str) -> None:
    agent, ended = Agent(name), asyncio.Event()

    @agent.tool
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    begun = time.time()
    async with asyncio.timeout(5):
        with pytest.raises(errors.DeadlineExceeded):
            await client.call("hang", timeout=0.3)
        assert time.time() >= begun + 0.3
        await ended.wait()
    assert time.time() >= begun + 0.3
    await eventually(lambda: "running=0" in repr(worker))


async def test_a_handler_that_ignores_its_end_does_not_keep_the_caller(stage: Stage, name: str) -> None:
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gate.pass_through()
        return "too late"

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    async with asyncio.timeout(5):
        with pytest.raises(errors.DeadlineExceeded):
            await client.call("stubborn", timeout=0.2)
        await gate.reached_by()
    gate.open()


async def test_a_call_whose_deadline_has_passed_is_not_even_sent(stage: Stage, name: str) -> None:
    client, ear = await stage.client(), Ear()
    await (await stage.bus.connect()).subscribe(subjects.calls(name), ear)
    with pytest.raises(errors.DeadlineExceeded):
        await client.agent(name).call("work", timeout=0.0)
    assert ear.heard == []


async def test_a_call_that_arrives_after_its_deadline_is_never_started(stage: Stage, name: str) -> None:
    agent, begun = Agent(name), list[str]()

    @agent.tool
    async def work() -> None:
        begun.append("work")

    await stage.serve(agent)
    wire, ear = await stage.bus.connect(), Ear()
    reply = subjects.reply("somebody", time.time() - 1, 1)
    await wire.subscribe(subjects.replies("somebody"), ear)
    await wire.publish(Message(subjects.call(name, "tools/call"), Body({"name": "work"}), reply=reply))
    [answer] = await ear.wait()
    assert answer.header(Header.ERROR_CODE) == str(errors.DeadlineExceeded.code)
    assert begun == []


async def test_a_call_whose_deadline_passes_in_the_queue_is_never_started(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric_sdk.answering._TICK", 60.0)  # nobody looks at the queue in between
    agent, gate, begun = Agent(name), Gate(), list[str]()

    @agent.tool
    async def work(who: str) -> None:
        begun.append(who)
        await gate.pass_through()

    await stage.serve(agent, limits=Limits(concurrency=1))
    client = (await stage.client()).agent(name)
    first = asyncio.create_task(client.call("work", {"who": "first"}))
    await gate.reached_by()
    second = asyncio.create_task(client.call("work", {"who": "second"}, timeout=0.2))
    with pytest.raises(errors.DeadlineExceeded):
        await second
    gate.open()
    await first
    assert await client.call("work", {"who": "third"}) is None
    assert begun == ["first", "third"]


async def test_a_foreign_caller_without_a_deadline_is_answered(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def remaining(ctx: Context) -> float:
        return ctx.remaining

    await stage.serve(agent)
    wire, ear = await stage.bus.connect(), Ear()
    inbox = f"_INBOX.{name}"
    await wire.subscribe(inbox, ear)
    await wire.publish(Message(subjects.call(name, "tools/call"), Body({"name": "remaining"}), reply=inbox))
    [answer] = await ear.wait()
    assert 50 < answer.body.members()["structuredContent"]["result"] <= 60


async def test_a_nested_call_inherits_deadline_principal_and_trace(stage: Stage, name: str) -> None:
    inner, outer = Agent(f"{name}-inner"), Agent(name)

    @inner.tool
    async def tell(ctx: Context) -> dict[str, Any]:
        return {"deadline": ctx.deadline, "principal": ctx.principal, "trace": list(ctx.trace or ()), "key": ctx.key}

    @outer.tool
    async def ask(timeout: float, ctx: Context) -> list[Any]:
        mine = {"deadline": ctx.deadline, "principal": ctx.principal, "trace": list(ctx.trace or ()), "key": ctx.key}
        return [mine, await ctx.fabric.agent(f"{name}-inner").call("tell", timeout=timeout)]

    await stage.serve(inner)
    await stage.serve(outer)
    client = await stage.client()
    trace = Trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "vendor=1")
    scope = Scope(time.time() + 20, "alice", trace)

    async def ask_for(timeout: float) -> tuple[dict[str, Any], dict[str, Any]]:
        body = Body({"name": "ask", "arguments": {"timeout": timeout}})
        result = await client.caller.call(Call(name, "tools/call", body, scope, key="k1"))
        outer_says, inner_says = result.members()["structuredContent"]["result"]
        return outer_says, inner_says

    outer_says, inner_says = await ask_for(60.0)
    assert outer_says["deadline"] == pytest.approx(scope.deadline, abs=0.002)
    assert inner_says["deadline"] == pytest.approx(scope.deadline, abs=0.002), "no later than the call it serves"
    assert inner_says["principal"] == outer_says["principal"] == "alice"
    assert inner_says["trace"] == outer_says["trace"] == list(trace)
    assert (outer_says["key"], inner_says["key"]) == ("k1", None), "a key names one piece of work"
    outer_says, inner_says = await ask_for(5.0)
    assert inner_says["deadline"] < outer_says["deadline"] - 10, "but sooner, if its caller wants it so"


async def test_a_nested_call_ends_with_the_call_that_it_serves(stage: Stage, name: str) -> None:
    inner, outer, ended = Agent(f"{name}-inner"), Agent(name), list[str]()

    @inner.tool
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("inner")

    @outer.tool
    async def ask(ctx: Context) -> None:
        try:
            await ctx.fabric.agent(f"{name}-inner").call("hang")
        finally:
            ended.append("outer")

    await stage.serve(inner)
    await stage.serve(outer)
    client = (await stage.client()).agent(name)
    with pytest.raises(errors.DeadlineExceeded):
        await client.call("ask", timeout=0.3)
    await eventually(lambda: sorted(ended) == ["inner", "outer"])


# Cancellation


async def test_cancelling_a_call_reaches_its_handler(stage: Stage, name: str) -> None:
    agent, gate, contexts, ended = Agent(name), Gate(), list[Context](), asyncio.Event()

    @agent.tool
    async def hang(ctx: Context) -> None:
        contexts.append(ctx)
        try:
            await gate.pass_through()
        finally:
            ended.set()

    worker = await stage.serve(agent)
    other = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("hang"))
    await gate.reached_by()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        await ended.wait()
    assert contexts[0].cancelled
    await eventually(lambda: "running=0" in repr(worker) and "running=0" in repr(other))


async def test_a_call_that_waits_for_its_turn_is_dropped_when_it_is_cancelled(stage: Stage, name: str) -> None:
    agent, gate, begun = Agent(name), Gate(), list[str]()

    @agent.tool
    async def work(who: str) -> None:
        begun.append(who)
        await gate.pass_through()

    worker = await stage.serve(agent, limits=Limits(concurrency=1, queue=1))
    client = (await stage.client()).agent(name)
    first = asyncio.create_task(client.call("work", {"who": "first"}))
    await gate.reached_by()
    dropped = asyncio.create_task(client.call("work", {"who": "dropped"}))
    await eventually(lambda: "waiting=1" in repr(worker))
    dropped.cancel()
    await eventually(lambda: "waiting=0" in repr(worker), what="room in the queue")
    third = asyncio.create_task(client.call("work", {"who": "third"}, timeout=5))
    await eventually(lambda: "waiting=1" in repr(worker))
    gate.open()
    await asyncio.gather(first, third)
    assert begun == ["first", "third"]
    assert worker.failed == 1, "only the one that was dropped"


async def test_a_call_that_is_cancelled_before_it_could_begin_leaves_nothing_behind(stage: Stage, name: str) -> None:
    agent, begun = Agent(name), list[str]()

    @agent.tool
    async def work() -> None:
        begun.append("work")

    worker = await stage.serve(agent, limits=Limits(concurrency=1))
    wire, ear = await stage.bus.connect(), Ear()
    await wire.subscribe(subjects.replies("hasty"), ear)
    for number in range(20):
        reply = subjects.reply("hasty", time.time() + 5, number)
        await wire.publish(Message(subjects.call(name, "tools/call"), Body({"name": "work"}), reply=reply))
        await wire.publish(Message(subjects.control(name), Body({"cancel": reply})))
    await ear.wait(20)
    await eventually(lambda: "running=0 waiting=0" in repr(worker))
    assert len(begun) == sum(not answer.headers for answer in ear.heard)
    client = (await stage.client()).agent(name)
    assert await client.call("work", timeout=5) is None
    async with asyncio.timeout(5):
        await stage.stop(worker)


@pytest.mark.parametrize(
    "order", [b"no json", b"[]", b'{"cancel": 7}', b'{"cancel": null}', b"{}", b'{"cancel": ["a"]}']
)
async def test_an_order_that_makes_no_sense_is_ignored(stage: Stage, name: str, order: bytes) -> None:
    agent = Agent(name)

    @agent.tool
    async def work() -> str:
        return "done"

    await stage.serve(agent)
    wire = await stage.bus.connect()
    await wire.publish(Message(subjects.control(name), Body(encoded=order)))
    assert await (await stage.client()).agent(name).call("work", timeout=5) == "done"


# Progress


async def test_progress_comes_in_order_and_never_after_the_answer(stage: Stage, name: str) -> None:
    agent, late = Agent(name), asyncio.Event()
    background = set[asyncio.Task[None]]()

    @agent.tool
    async def work(ctx: Context) -> str:
        for step in (1, 2, 2, 1, 3):
            await ctx.progress(step, 3, f"step {step}")
        await ctx.info({"half": "way"})

        async def report_late() -> None:
            await late.wait()
            await ctx.progress(4, 3, "too late")

        background.add(asyncio.create_task(report_late()))
        return "done"

    await stage.serve(agent)
    client = await stage.client()
    heard = list[tuple[str, Any]]()

    def hear(kind: str, frame: Body) -> None:
        heard.append((kind, frame.value()))

    body = Body({"name": "work"})
    await client.caller.call(Call(name, "tools/call", body, scope_for(5), on_frame=hear))
    late.set()
    await asyncio.gather(*background)
    await settled(await stage.bus.connect(), client.transport)
    assert await client.agent(name).call("work") == "done"
    assert heard == [
        ("progress", {"progress": 1, "total": 3, "message": "step 1"}),
        ("progress", {"progress": 2, "total": 3, "message": "step 2"}),
        ("progress", {"progress": 3, "total": 3, "message": "step 3"}),
        ("log", {"level": "info", "data": {"half": "way"}, "logger": name}),
    ]


async def test_a_client_hears_progress_as_numbers_and_words(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def work(ctx: Context) -> int:
        await ctx.progress(0.5)
        await ctx.warning("not progress")
        await ctx.progress(1, 2)
        await ctx.progress(2, 2, "there")
        return 2

    await stage.serve(agent)
    heard = list[tuple[float, float | None, str | None]]()
    client = (await stage.client()).agent(name)

    def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    await client.call("work", on_progress=hear)
    assert heard == [(0.5, None, None), (1, 2, None), (2, 2, "there")]


@pytest.mark.usefixtures("impatient")
async def test_progress_never_goes_back_when_a_call_is_repeated(stage: Stage, name: str) -> None:
    silence = Silence()
    await silence.start(stage, name)
    client, heard = await stage.client(), list[float]()

    def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    call = client.agent(name).call("work", key="k", timeout=20, on_progress=hear)
    first = asyncio.create_task(call)
    [taken] = await silence.took.wait()
    wire = await stage.bus.connect()
    for progress in (1, 2, 3):
        await wire.publish(Message(taken.reply, Body({"progress": progress}), headers={Header.FRAME: "progress"}))
    await eventually(lambda: heard == [1, 2, 3])
    await silence.leave()
    agent = Agent(name)

    @agent.tool
    async def work(ctx: Context) -> str:
        for progress in (1, 2, 3, 3.5, 4):
            await ctx.progress(progress)
        return "done"

    await stage.serve(agent)
    assert await first == "done"
    assert heard == [1, 2, 3, 3.5, 4]


async def test_a_listener_that_raises_hurts_neither_the_call_nor_the_handler(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def work(ctx: Context) -> str:
        await ctx.progress(1)
        await ctx.progress(2)
        return "done"

    def broken(*_: object) -> None:
        raise RuntimeError("this listener is broken")

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    assert await client.call("work", on_progress=broken, timeout=5) == "done"


# Concurrency


async def test_calls_of_one_worker_run_at_the_same_time(stage: Stage, name: str) -> None:
    agent, together = Agent(name), asyncio.Barrier(3)

    @agent.tool
    async def meet() -> int:
        return await together.wait()

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    async with asyncio.timeout(5):
        assert sorted(await asyncio.gather(*(client.call("meet") for _ in range(3)))) == [0, 1, 2]


async def test_plain_functions_run_in_threads_and_block_nobody(stage: Stage, name: str) -> None:
    agent, together = Agent(name), threading.Barrier(3, timeout=10)
    blocked = threading.Event()

    @agent.tool
    def meet() -> str:
        together.wait()
        return threading.current_thread().name

    @agent.tool
    def block() -> bool:
        return blocked.wait(10)

    @agent.tool
    async def unblock() -> None:
        blocked.set()

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    threads = await asyncio.gather(*(client.call("meet", timeout=10) for _ in range(3)))
    assert len(set(threads)) == 3
    assert threading.main_thread().name not in threads
    blocking = asyncio.create_task(client.call("block", timeout=10))
    await client.call("unblock", timeout=10)
    assert await blocking is True


async def test_a_function_in_a_thread_can_see_that_it_was_cancelled(stage: Stage, name: str) -> None:
    agent, begun, seen = Agent(name), threading.Event(), threading.Event()

    @agent.tool
    def work(ctx: Context) -> None:
        begun.set()
        for _ in range(1000):
            if ctx.cancelled:
                seen.set()
                return
            time.sleep(0.01)

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work"))
    await eventually(begun.is_set)
    call.cancel()
    await eventually(seen.is_set)


async def test_a_worker_runs_as_many_calls_as_it_may_and_queues_the_next_in_order(stage: Stage, name: str) -> None:
    agent, gate, begun = Agent(name), Gate(), list[int]()

    @agent.tool
    async def work(number: int) -> int:
        begun.append(number)
        await gate.pass_through()
        return number

    worker = await stage.serve(agent, limits=Limits(concurrency=2, queue=3))
    client = (await stage.client()).agent(name)
    calls = list[asyncio.Task[Any]]()
    for number in range(5):
        calls.append(asyncio.create_task(client.call("work", {"number": number})))
        await eventually(lambda: f"running={min(len(calls), 2)} waiting={max(len(calls) - 2, 0)}" in repr(worker))
    assert begun == [0, 1]
    gate.open()
    assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]
    assert begun == [0, 1, 2, 3, 4]


async def test_a_full_worker_refuses_and_the_call_is_tried_again(stage: Stage, name: str) -> None:
    agent, gate, begun = Agent(name), Gate(), list[str]()

    @agent.tool
    async def work(who: str) -> str:
        begun.append(who)
        await gate.pass_through()
        return who

    worker = await stage.serve(agent, limits=Limits(concurrency=1, queue=0))
    client = await stage.client()
    first = asyncio.create_task(client.agent(name).call("work", {"who": "first"}))
    await gate.reached_by()
    second = asyncio.create_task(client.agent(name).call("work", {"who": "second"}, timeout=20))
    await eventually(lambda: worker.failed >= 2, what="refusals")
    gate.open()
    assert await asyncio.gather(first, second) == ["first", "second"]
    assert begun == ["first", "second"], (
        "tried again, though nobody said that the tool is safe to repeat: it never began"
    )


async def test_a_call_that_is_refused_to_the_end_says_why(stage: Stage, name: str) -> None:
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def work() -> None:
        await gate.pass_through()

    await stage.serve(agent, limits=Limits(concurrency=1, queue=0))
    client = (await stage.client()).agent(name)
    first = asyncio.create_task(client.call("work"))
    await gate.reached_by()
    with pytest.raises((errors.Overloaded, errors.DeadlineExceeded)):
        await client.call("work", timeout=0.5)
    assert gate.reached == 1
    gate.open()
    await first


async def test_a_wait_that_lasts_past_the_deadline_hides_no_reason(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: float) -> float:
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)  # the machine has no time for us
        return 0.01

    client = (await stage.client()).agent(name)
    monkeypatch.setattr("random.uniform", wait)
    with pytest.raises(errors.AgentUnavailable, match=name):
        await client.call("work", timeout=0.2)


# Instances that come and go


async def test_calls_spread_over_the_instances_and_one_can_be_asked_alone(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def who(ctx: Context) -> str:
        return ctx.instance

    workers = [await stage.serve(agent) for _ in range(3)]
    client = await stage.client()
    answers = Counter([await client.agent(name).call("who") for _ in range(100)])
    assert set(answers) == {worker.instance for worker in workers}
    for worker in workers:
        call = Call(name, "tools/call", Body({"name": "who"}), scope_for(5), instance=worker.instance)
        assert (await client.caller.call(call)).members()["structuredContent"]["result"] == worker.instance


async def test_draining_finishes_what_is_in_hand_and_loses_nothing(stage: Stage, name: str) -> None:
    agent, executed = Agent(name), Counter[int]()

    @agent.tool
    async def work(number: int) -> int:
        executed[number] += 1
        await asyncio.sleep(0.01)
        return number

    first = await stage.serve(agent, limits=Limits(concurrency=8))
    client = (await stage.client()).agent(name)
    done = list[int]()

    async def user(number: int) -> None:
        for turn in range(20):
            done.append(await client.call("work", {"number": 100 * number + turn}, timeout=20))

    async def drain() -> None:
        await eventually(lambda: first.served > 50)
        second = await stage.serve(agent, limits=Limits(concurrency=8))
        await stage.stop(first)
        assert "running=0 waiting=0" in repr(first)
        await eventually(lambda: second.served > 100)

    await asyncio.gather(drain(), *(user(number) for number in range(20)))
    expected = [100 * number + turn for number in range(20) for turn in range(20)]
    assert sorted(done) == expected
    assert executed == Counter(expected), "each exactly once: no call was lost, none was repeated"


async def test_a_draining_worker_takes_no_new_calls_and_can_still_be_cancelled(stage: Stage, name: str) -> None:
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def work(ctx: Context) -> str:
        await gate.pass_through()
        return ctx.instance

    leaving = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    to_cancel, in_hand = (asyncio.create_task(client.call("work")) for _ in range(2))
    await gate.reached_by(2)
    draining = asyncio.create_task(stage.stop(leaving))
    await nobody_takes_calls(client)
    staying = await stage.serve(agent)
    later = asyncio.create_task(client.call("work"))
    await gate.reached_by(3)
    to_cancel.cancel()
    await eventually(lambda: leaving.failed == 1, what="the end of the cancelled call")
    gate.open()
    assert await in_hand == leaving.instance
    assert await later == staying.instance
    await draining


async def nobody_takes_calls(client: AgentClient) -> None:
    """Return when no instance of the agent takes calls any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.describe(timeout=0.1)
            except (errors.AgentUnavailable, errors.DeadlineExceeded):
                return


async def test_a_call_that_outlasts_the_drain_is_ended_and_says_so(stage: Stage, name: str) -> None:
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def hang() -> None:
        await gate.pass_through()

    worker = await stage.serve(agent, limits=Limits(concurrency=1))
    client = (await stage.client()).agent(name)
    running, waiting = (asyncio.create_task(client.call("hang", timeout=1.5)) for _ in range(2))
    await gate.reached_by()
    await eventually(lambda: "running=1 waiting=1" in repr(worker))
    async with asyncio.timeout(10):
        await stage.stop(worker, grace=0.1)
        for call in (running, waiting):
            with pytest.raises(errors.WorkerLost):
                await call
    assert gate.reached == 1


async def test_a_call_waits_for_an_instance_to_appear(stage: Stage, name: str) -> None:
    agent, begun = Agent(name), list[int]()

    @agent.tool
    async def work() -> str:
        begun.append(1)
        return "done"

    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work"))
    await nobody_takes_calls(client)
    await stage.serve(agent)
    assert await call == "done"
    assert begun == [1]


async def test_when_no_instance_appears_the_error_says_what_to_do(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.5)
    client = (await stage.client()).agent(name)
    begun = time.monotonic()
    async with asyncio.timeout(10):
        with pytest.raises(errors.AgentUnavailable, match=f"no instance of agent '{name}'.*fabric worker") as failed:
            await client.call("work", timeout=60)
    assert time.monotonic() - begun > 0.1, "it was patient for a while"
    assert failed.value.fix
    assert not failed.value.started
    with pytest.raises(errors.AgentUnavailable, match="instance 'absent' is not taking calls"):
        await client.describe(instance="absent", timeout=60)


# Workers that fall silent


class Silence:
    """An instance that takes calls and is never heard of again, as after SIGKILL; it can leave."""

    def __init__(self) -> None:
        self.took = Ear()
        self._subscription: Subscription | None = None

    async def start(self, stage: Stage, name: str) -> None:
        wire = await stage.bus.connect()
        self._subscription = await wire.subscribe(subjects.calls(name), self.took, queue=subjects.POOL)

    async def leave(self) -> None:
        assert self._subscription is not None
        await self._subscription.close()

    @property
    def methods(self) -> list[str]:
        """The methods of the calls that it took."""
        return [subject.split(".", 3)[3] for subject in self.took.subjects]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed sooner than in the product, in the same order."""
    monkeypatch.setattr(calling, "ALIVE_INTERVAL", 0.1)
    monkeypatch.setattr("fabric_sdk.answering.ALIVE_INTERVAL", 0.1)
    monkeypatch.setattr(calling, "SILENCE", 0.6)
    monkeypatch.setattr(calling, "LONG_SILENCE", 1.5)


def counting(name: str, **annotations: bool) -> tuple[Agent, list[str | None]]:
    """An agent whose tool `work` has these annotations; it notes the key of each execution."""
    agent, executed = Agent(name), list[str | None]()

    @agent.tool(annotations=dict(annotations))
    async def work(ctx: Context) -> str:
        executed.append(ctx.key)
        return "done"

    return agent, executed


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("annotation", ["readOnlyHint", "idempotentHint"])
async def test_a_call_of_a_safe_tool_goes_to_another_instance_when_its_worker_falls_silent(
    stage: Stage, name: str, annotation: str
) -> None:
    silence = Silence()
    await silence.start(stage, name)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work", timeout=20))
    await silence.took.wait()
    await silence.leave()
    agent, executed = counting(name, **{annotation: True})
    await stage.serve(agent)
    assert await call == "done"
    assert executed == [None]
    assert silence.methods[0] == "tools.call"


@pytest.mark.usefixtures("impatient")
async def test_an_idempotency_key_makes_any_call_safe_and_is_the_same_in_every_attempt(stage: Stage, name: str) -> None:
    silence = Silence()
    await silence.start(stage, name)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work", key="order-7", timeout=20))
    [taken] = await silence.took.wait()
    assert taken.header(Header.KEY) == "order-7"
    await silence.leave()
    agent, executed = counting(name)
    await stage.serve(agent)
    assert await call == "done"
    assert executed == ["order-7"]


@pytest.mark.usefixtures("impatient")
async def test_a_call_of_an_unsafe_tool_is_never_repeated_and_ends_after_a_long_silence(
    stage: Stage, name: str
) -> None:
    silence = Silence()
    await silence.start(stage, name)
    client = (await stage.client()).agent(name)
    begun = time.monotonic()
    call = asyncio.create_task(client.call("work", timeout=20))
    await silence.took.wait()
    await silence.leave()
    agent, executed = counting(name, readOnlyHint=False, idempotentHint=False)
    await stage.serve(agent)
    with pytest.raises(errors.WorkerLost) as lost:
        await call
    assert time.monotonic() - begun >= calling.LONG_SILENCE
    assert lost.value.started
    assert executed == []
    assert silence.methods.count("tools.call") == 1


@pytest.mark.usefixtures("impatient")
async def test_a_call_of_which_nobody_can_say_whether_it_is_safe_ends_after_a_long_silence(
    stage: Stage, name: str
) -> None:
    silence = Silence()
    await silence.start(stage, name)  # takes the question as well
    client = (await stage.client()).agent(name)
    async with asyncio.timeout(10):
        with pytest.raises(errors.WorkerLost) as ended:
            await client.call("work", timeout=60)
    assert ended.value.started
    assert silence.methods.count("tools.call") == 1
    assert silence.methods.count("fabric.describe") >= 1


async def test_a_call_ends_at_its_deadline_even_while_it_is_asked_whether_it_is_safe(stage: Stage, name: str) -> None:
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def hang() -> None:
        await gate.pass_through()

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("hang", timeout=0.6))
    await gate.reached_by()
    silence = Silence()
    await silence.start(stage, name)  # it alone is left to be asked, and says nothing
    async with asyncio.timeout(5):
        await stage.stop(worker, grace=0.0)
        with pytest.raises(errors.WorkerLost):
            await call
    assert silence.methods == ["fabric.describe"]


@pytest.mark.usefixtures("impatient")
async def test_a_call_that_was_lost_is_not_said_to_have_never_begun(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.3)
    silence = Silence()
    await silence.start(stage, name)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work", timeout=20))
    await silence.took.wait()
    await silence.leave()  # now nobody can be asked whether the tool is safe
    with pytest.raises(errors.WorkerLost) as lost:
        await call
    assert lost.value.started


@pytest.mark.usefixtures("impatient")
async def test_a_call_that_is_worked_on_is_not_taken_for_lost_however_long_it_takes(stage: Stage, name: str) -> None:
    agent, gate, executed = Agent(name), Gate(), list[str]()

    @agent.tool(annotations={"readOnlyHint": True})
    async def work(who: str) -> str:
        executed.append(who)
        await gate.pass_through()
        return who

    await stage.serve(agent, limits=Limits(concurrency=1))
    client = (await stage.client()).agent(name)
    running = asyncio.create_task(client.call("work", {"who": "runs"}))
    await gate.reached_by()
    waiting = asyncio.create_task(client.call("work", {"who": "waits"}))  # a sign of life is given for it too
    _, still_open = await asyncio.wait([running, waiting], timeout=1.2 * calling.LONG_SILENCE)
    assert len(still_open) == 2
    gate.open()
    assert await asyncio.gather(running, waiting) == ["runs", "waits"]
    assert executed == ["runs", "waits"]


@pytest.mark.usefixtures("impatient")
async def test_a_late_answer_to_a_repeated_call_is_dropped(stage: Stage, name: str) -> None:
    silence = Silence()
    await silence.start(stage, name)
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work", key="k", timeout=20))
    [taken] = await silence.took.wait()
    await silence.leave()
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def work() -> str:
        await gate.pass_through()
        return "second"

    await stage.serve(agent)
    await gate.reached_by()
    wire = await stage.bus.connect()
    late = {"content": [{"type": "text", "text": "first"}], "resultType": "complete"}
    await wire.publish(Message(taken.reply, Body(late)))
    await wire.flush()
    gate.open()
    assert await call == "second"


async def test_a_call_that_found_no_instance_first_is_still_known_to_be_safe_later(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    client = (await stage.client()).agent(name)
    call = asyncio.create_task(client.call("work", timeout=20))
    await nobody_takes_calls(client)
    silence = Silence()
    await silence.start(stage, name)
    await silence.took.wait()
    await silence.leave()
    agent, executed = counting(name, readOnlyHint=True)
    await stage.serve(agent)
    assert await call == "done"
    assert executed == [None]


# What a handler's own failure may look like


async def test_a_handler_whose_own_call_found_nobody_is_not_run_again(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.3)
    agent, executed = Agent(name), list[int]()

    @agent.tool
    async def order(ctx: Context) -> None:
        executed.append(len(executed))  # an effect that must not happen twice
        await ctx.fabric.agent(f"{name}-absent").call("ship", timeout=5)

    @agent.tool
    async def claim() -> None:
        executed.append(len(executed))
        raise errors.Overloaded("says the handler, which had begun")

    @agent.resource("order://")
    async def ordered(ctx: Context) -> str:
        executed.append(len(executed))
        raise errors.TransportUnavailable("says the handler, which had begun")

    await stage.serve(agent)
    client = (await stage.client()).agent(name)
    for ask in (client.call("order", timeout=5), client.call("claim", timeout=5), client.read("order://", timeout=5)):
        executed.clear()
        with pytest.raises(errors.FabricError) as failed:
            await ask
        assert failed.value.started, "the handler had begun, whatever it ran into"
        assert executed == [0]


async def test_middleware_that_refuses_before_the_handler_is_tried_again(stage: Stage, name: str) -> None:
    agent, refusals = Agent(name), list[int]()

    @agent.tool
    async def work() -> str:
        return "done"

    def refuse_twice(handler: Handler) -> Handler:
        async def handle(context: Context, request: Request) -> Body:
            if len(refusals) < 2:
                refusals.append(1)
                raise errors.Overloaded
            return await handler(context, request)

        return handle

    await stage.serve(agent, middleware=(refuse_twice,))
    assert await (await stage.client()).agent(name).call("work") == "done"
    assert len(refusals) == 2


# The client's end


async def test_calls_that_wait_when_their_client_is_closed_end_and_are_not_repeated(stage: Stage, name: str) -> None:
    agent, gate = Agent(name), Gate()

    @agent.tool
    async def work() -> str:
        await gate.pass_through()
        return "done"

    worker = await stage.serve(agent)
    async with Fabric.over(await stage.bus.connect()) as fabric:
        call = asyncio.create_task(fabric.agent(name).call("work", timeout=20))
        await gate.reached_by()
    async with asyncio.timeout(5):
        with pytest.raises(errors.FabricError, match="closed") as ended:
            await call
    assert ended.value.started
    gate.open()
    await eventually(lambda: "running=0" in repr(worker))
    assert gate.reached == 1


async def test_a_closed_client_refuses_at_once(stage: Stage, name: str) -> None:
    await stage.serve(Agent(name))
    async with Fabric.over(await stage.bus.connect()) as fabric:
        pass
    async with asyncio.timeout(5):
        with pytest.raises(errors.FabricError, match="closed"):
            await fabric.agent(name).describe(timeout=60)


async def test_a_call_over_a_closed_transport_is_refused_at_once(stage: Stage, name: str) -> None:
    transport = await stage.bus.connect()
    async with Fabric.over(transport) as fabric:
        await transport.close()
        async with asyncio.timeout(5):
            with pytest.raises(errors.TransportUnavailable):
                await fabric.agent(name).describe(timeout=60)


async def test_a_client_that_comes_and_goes_leaves_nothing_on_a_transport(stage: Stage, name: str) -> None:
    transport = await stage.bus.connect()
    before = repr(transport)
    for _ in range(5):
        async with Fabric.over(transport):
            pass
    if not isinstance(stage.bus, MemoryBus):
        assert repr(transport) == before
    assert not vars(transport).get("_listeners")


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "é", "x" * 129])
async def test_a_key_that_cannot_travel_is_refused_before_anything_is_sent(stage: Stage, name: str, key: str) -> None:
    client = (await stage.client()).agent(name)
    with pytest.raises(errors.InvalidParams, match="idempotency key"):
        await client.call("work", key=key)


# The handler's address


async def test_two_calls_with_the_same_reply_address_are_two_calls(stage: Stage, name: str) -> None:
    agent, gates = Agent(name), {"first": Gate(), "second": Gate()}

    @agent.tool
    async def work(who: str) -> str:
        await gates[who].pass_through()
        return who

    worker = await stage.serve(agent)
    wire, ear = await stage.bus.connect(), Ear()
    inbox = f"_INBOX.{name}"
    await wire.subscribe(inbox, ear)
    for who in gates:
        body = Body({"name": "work", "arguments": {"who": who}})
        await wire.publish(Message(subjects.call(name, "tools/call"), body, reply=inbox))
        await gates[who].reached_by()
    draining = asyncio.create_task(stage.stop(worker))
    gates["first"].open()
    await ear.wait(1)
    _, still_open = await asyncio.wait([draining], timeout=0.3)
    assert still_open, "the second call is in hand"
    gates["second"].open()
    await ear.wait(2)
    await draining
    said = [answer.body.members()["structuredContent"]["result"] for answer in ear.heard]
    assert said == ["first", "second"]


async def test_a_call_that_wants_no_answer_is_served(stage: Stage, name: str) -> None:
    agent, executed = Agent(name), asyncio.Event()

    @agent.tool
    async def work(ctx: Context) -> None:
        await ctx.progress(1)
        executed.set()

    worker = await stage.serve(agent)
    wire = await stage.bus.connect()
    await wire.publish(Message(subjects.call(name, "tools/call"), Body({"name": "work"})))
    async with asyncio.timeout(5):
        await executed.wait()
    await eventually(lambda: worker.served == 1 and "running=0" in repr(worker))


# Being seen


async def test_a_worker_answers_as_a_nats_micro_service(stage: Stage, name: str) -> None:
    agent = Agent(name, version="1.2.3", description="For tests.")

    @agent.tool
    async def work(fail: bool = False) -> None:
        if fail:
            raise errors.HandlerFailed("as asked")

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    await client.call("work")
    with pytest.raises(errors.HandlerFailed):
        await client.call("work", {"fail": True})
    wire = await stage.bus.connect()

    async def ask(verb: str, *scope: str) -> dict[str, Any]:
        ear, inbox = Ear(), f"_INBOX.{next(_numbers)}"
        heard = await wire.subscribe(inbox, ear)
        await wire.publish(Message(subjects.service(verb, *scope), reply=inbox))
        await ear.wait()
        await heard.close()
        return next(answer for each in ear.heard if (answer := each.body.members())["name"] == name)

    for scope in ((), (name,), (name, worker.instance)):
        ping = micro.ServicePing.from_dict(await ask("PING", *scope))
        assert (ping.type, ping.name, ping.id, ping.version) == (
            micro.PING_RESPONSE_TYPE,
            name,
            worker.instance,
            "1.2.3",
        )
        info = micro.ServiceInfo.from_dict(await ask("INFO", *scope))
        assert (info.type, info.id, info.description) == (micro.INFO_RESPONSE_TYPE, worker.instance, "For tests.")
        [endpoint] = info.endpoints
        assert (endpoint.subject, endpoint.queue_group) == (subjects.calls(name), subjects.POOL)
        assert {type(value) for value in (*info.metadata.values(), *endpoint.metadata.values())} == {str}
        raw = await ask("STATS", *scope)
        assert datetime.fromisoformat(raw["started"]).tzinfo is UTC
        stats = micro.ServiceStats.from_dict(raw)
        assert (stats.type, stats.id) == (micro.STATS_RESPONSE_TYPE, worker.instance)
        [counted] = stats.endpoints
        assert (counted.num_requests, counted.num_errors, counted.last_error) == (2, 1, "as asked")
        assert counted.processing_time >= counted.average_processing_time > 0


@pytest.mark.parametrize(("version", "shown"), [("1.2.3-rc.1+b", "1.2.3-rc.1+b"), ("v1.2", "0.0.0"), ("", "0.0.0")])
async def test_a_version_that_is_none_for_micro_services_is_shown_as_zero(
    stage: Stage, name: str, version: str, shown: str
) -> None:
    await stage.serve(Agent(name, version=version))
    wire, ear, inbox = await stage.bus.connect(), Ear(), f"_INBOX.{name}"
    await wire.subscribe(inbox, ear)
    await wire.publish(Message(subjects.service("PING", name), reply=inbox))
    [answer] = await ear.wait()
    assert answer.body.members()["version"] == shown
    assert (await (await stage.client()).agent(name).describe()).version == version


async def test_beats_tell_what_a_worker_is_doing_until_it_is_gone(stage: Stage, name: str) -> None:
    agent, gate = Agent(name, version="1.2.3"), Gate()

    @agent.tool
    async def work() -> None:
        await gate.pass_through()

    wire, beats = await stage.bus.connect(), Ear()
    await wire.subscribe(f"fab.beat.{name}.*", beats)
    worker = await stage.serve(agent, limits=Limits(concurrency=1))
    client = (await stage.client()).agent(name)
    calls = [asyncio.create_task(client.call("work")) for _ in range(2)]
    await eventually(lambda: "running=1 waiting=1" in repr(worker))
    draining = asyncio.create_task(stage.stop(worker))
    await beats.wait(2)
    gate.open()
    await asyncio.gather(draining, *calls)
    await beats.wait(3)
    assert set(beats.subjects) == {subjects.beat(name, worker.instance)}
    said = [Beat.model_validate(value) for value in beats.values]
    assert [(beat.state, beat.running, beat.waiting, beat.served) for beat in said] == [
        ("ready", 0, 0, 0),
        ("draining", 1, 1, 0),
        ("gone", 0, 0, 2),
    ]
    assert {(beat.agent, beat.instance, beat.version, beat.capacity) for beat in said} == {
        (name, worker.instance, "1.2.3", 1)
    }
    assert {beat.digest for beat in said} == {(await agent.describe()).digest}


async def test_an_idle_worker_that_leaves_is_gone_at_the_end_and_leaves_nothing_behind(stage: Stage, name: str) -> None:
    wire, beats, client = await stage.bus.connect(), Ear(), await stage.client()
    await wire.subscribe(f"fab.beat.{name}.*", beats)
    for _ in range(10):
        beats.heard.clear()
        worker = await stage.serve(Agent(name))
        await client.agent(name).describe()
        await stage.stop(worker)
        await settled(worker_wire(worker), wire)
        states = [Beat.model_validate(value).state for value in beats.values]
        assert states[0] == "ready"
        assert states[-1] == "gone"
        assert "ready" not in states[1:]
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "Announcer" in repr(task)])


def worker_wire(worker: Worker) -> Transport:
    """The worker's own connection: what comes over it comes after its last beat."""
    return worker._transport  # pyright: ignore[reportPrivateUsage]


async def test_a_lifespan_is_held_open_while_the_worker_serves(stage: Stage, name: str) -> None:
    log = list[str]()

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        assert isinstance(fabric, Fabric)
        log.append("enter")
        yield
        log.append("leave")

    agent = Agent(name, lifespan=lifespan)

    @agent.tool
    async def work() -> None:
        log.append("work")

    worker = await stage.serve(agent)
    await (await stage.client()).agent(name).call("work")
    await stage.stop(worker)
    assert log == ["enter", "work", "leave"]


async def test_a_worker_that_cannot_start_leaves_its_lifespan(stage: Stage, name: str) -> None:
    log = list[str]()

    class Undescribed(Agent):
        async def describe(self) -> Description:
            raise errors.ConfigurationError("cannot say what it offers")

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        log.append("enter")
        try:
            yield
        finally:
            log.append("leave")

    with pytest.raises(errors.ConfigurationError, match="cannot say"):
        await Worker(await stage.bus.connect(), Undescribed(name, lifespan=lifespan)).start()
    assert log == ["enter", "leave"]


async def test_a_call_leaves_nothing_to_the_garbage_collector(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def say(text: str) -> str:
        return text

    await stage.serve(agent)
    client, calls = (await stage.client()).agent(name), 200
    await client.call("say", {"text": "x"})
    gc.collect()
    gc.disable()
    try:
        for _ in range(calls):
            await client.call("say", {"text": "x"})
        assert gc.collect() < calls, "what a call made keeps itself alive"
    finally:
        gc.enable()
