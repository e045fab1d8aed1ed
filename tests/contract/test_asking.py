"""A handler that asks its caller: once, in the middle of its work, on every transport. Proves: TR-1."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any
from uuid import uuid4

import mcp_types
import pytest
from contract.conftest import Stage
from mcp.server import MCPServer
from mcp.server.mcpserver import Context as McpContext
from pydantic import BaseModel
from support.waiting import Ear, eventually

from fabric.connectors.hosted import HostedServer
from fabric_sdk import Agent, Context
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.asking import RESUME, Asked, Waiting
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.patterns.asking import follow_up
from fabric_sdk.patterns.call import Call, Caller
from fabric_sdk.worker import Limits


class Size(BaseModel):
    size: int


def accept(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


def asking_agent(done: list[Any], *, safe: bool = False) -> Agent:
    agent = Agent("asker")

    @agent.tool(annotations={"readOnlyHint": safe})
    async def order(context: Context, what: str) -> str:
        done.append(f"reserved {what}")
        size = await context.elicit("Which size?", Size)
        if size.content is None:
            return size.action
        color = await context.elicit("Which color?", {"type": "object", "properties": {"color": {"type": "string"}}})
        said = await context.sample("Say something nice.")
        done.append(f"ordered {what}")
        assert color.content is not None
        return f"{what} {size.content.size} {color.content['color']}: {said['content']['text']}"

    return agent


async def answer(method: str, params: dict[str, Any]) -> Any:
    if method == "sampling/createMessage":
        return {"role": "assistant", "model": "m", "content": {"type": "text", "text": "nice"}}
    return accept(size=42) if "size" in params["requestedSchema"]["properties"] else accept(color="red")


async def test_a_handler_asks_as_often_as_it_likes_and_does_nothing_twice(stage: Stage) -> None:
    done: list[Any] = []
    await stage.serve(asking_agent(done))
    client = await stage.client()
    assert await client.agent("asker").call("order", {"what": "hat"}, on_ask=answer) == "hat 42 red: nice"
    assert done == ["reserved hat", "ordered hat"]


async def test_while_a_handler_waits_its_worker_serves_others(stage: Stage) -> None:
    agent, asked, go = asking_agent([]), asyncio.Event(), asyncio.Event()

    @agent.tool
    async def ping() -> str:
        return "pong"

    async def later(method: str, params: dict[str, Any]) -> Any:
        asked.set()
        await go.wait()
        return await answer(method, params)

    await stage.serve(agent, limits=Limits(concurrency=1))
    client = (await stage.client()).agent("asker")
    waiting = asyncio.create_task(client.call("order", {"what": "hat"}, on_ask=later))
    await asked.wait()
    assert await client.call("ping", timeout=5) == "pong"
    go.set()
    assert await waiting == "hat 42 red: nice"


async def test_whoever_cannot_be_asked_is_told_what_is_missing(stage: Stage) -> None:
    done: list[Any] = []
    await stage.serve(asking_agent(done))
    client = (await stage.client()).agent("asker")
    with pytest.raises(errors.CapabilityMissing) as missing:
        await client.call("order", {"what": "hat"})
    assert missing.value.data == {"requiredCapabilities": {"elicitation": {}}}


async def test_a_no_is_an_answer(stage: Stage) -> None:
    async def decline(method: str, params: dict[str, Any]) -> Any:
        return {"action": "decline"}

    await stage.serve(asking_agent([]))
    client = (await stage.client()).agent("asker")
    assert await client.call("order", {"what": "hat"}, on_ask=decline) == "decline"


async def test_what_a_nested_call_asks_goes_to_whoever_called_first(stage: Stage) -> None:
    outer = Agent("outer")

    @outer.tool
    async def buy(context: Context) -> str:
        return await context.fabric.agent("asker").call("order", {"what": "hat"})

    await stage.serve(asking_agent([]))
    await stage.serve(outer)
    client = (await stage.client()).agent("outer")
    assert await client.call("buy", on_ask=answer) == "hat 42 red: nice"


async def test_questions_at_the_same_time_are_asked_one_after_the_other(stage: Stage) -> None:
    agent = Agent("asker")

    @agent.tool
    async def both(context: Context) -> list[Any]:
        asked = [context.elicit(text, {"type": "object", "properties": {text: {}}}) for text in ("size", "color")]
        return [said.content for said in await asyncio.gather(*asked)]

    await stage.serve(agent)
    client = (await stage.client()).agent("asker")
    assert await client.call("both", on_ask=answer) == [{"size": 42}, {"color": "red"}]


CAN: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}}}


def order(safe: bool = False) -> Call:
    params = {"name": "order", "arguments": {"what": "hat"}, "_meta": CAN}
    return Call("asker", "tools/call", Body(params), scope_for(10), safe=safe)


async def test_an_answer_that_is_brought_twice_is_taken_once_and_its_end_told_to_both(stage: Stage) -> None:
    agent, done, go = Agent("asker"), list[str](), asyncio.Event()

    @agent.tool(name="order")
    async def order_one(context: Context, what: str) -> str:
        await context.elicit("Which size?", Size)
        done.append(what)
        await go.wait()
        return what

    await stage.serve(agent)
    caller = (await stage.client()).caller
    call = order()
    asked = Asked.of(await caller.call(call))
    assert asked is not None
    first = asyncio.create_task(follow_up(caller, call, asked, {"1": accept(size=1)}))
    await eventually(lambda: bool(done), what="the handler goes on")
    second = asyncio.create_task(follow_up(caller, order(), asked, {"1": accept(size=2)}))
    await (await stage.client()).agent("asker").describe()
    go.set()
    assert (await second).value()["structuredContent"] == {"result": "hat"}
    third = await follow_up(caller, order(), asked, {"1": accept(size=3)})
    assert third.value()["structuredContent"] == {"result": "hat"}
    assert done == ["hat"]
    first.cancel()


async def test_an_answer_that_comes_late_is_told_what_is_asked_by_now(stage: Stage) -> None:
    done: list[Any] = []
    await stage.serve(asking_agent(done))
    caller = (await stage.client()).caller
    first = Asked.of(await caller.call(order()))
    assert first is not None
    second = Asked.of(await follow_up(caller, order(), first, {"1": accept(size=42)}))
    assert second is not None
    # Whoever brought that answer died before it heard the next question, and another brings it again.
    again = Asked.of(await follow_up(caller, order(), first, {"1": accept(size=7)}))
    assert again == second
    third = Asked.of(await follow_up(caller, order(), second, {"2": accept(color="red")}))
    assert third is not None
    assert list(third.requests) == ["3"]
    assert done == ["reserved hat"]


@pytest.mark.parametrize("safe", [True, False])
async def test_where_the_asking_worker_is_gone_harmless_work_begins_anew(stage: Stage, safe: bool) -> None:
    done: list[Any] = []
    agent = asking_agent(done, safe=safe)
    first = await stage.serve(agent)
    caller = (await stage.client()).caller
    call = order(safe)
    asked = Asked.of(await caller.call(call))
    assert asked is not None
    asked = Asked.of(await follow_up(caller, call, asked, {"1": accept(size=42)}))
    assert asked is not None
    await stage.stop(first, 0)
    await stage.serve(agent)
    if not safe:
        with pytest.raises(errors.QuestionLost, match="call again"):
            await follow_up(caller, order(safe), asked, {"2": accept(color="red")})
        return
    asked = Asked.of(await follow_up(caller, order(safe), asked, {"2": accept(color="red")}))
    assert asked is not None
    assert list(asked.requests) == ["3"]
    assert done == ["reserved hat", "reserved hat"]


@pytest.mark.parametrize("params", [{}, {"id": "unknown", "answers": {}}, [], "x"], ids=str)
async def test_an_answer_to_nothing_is_refused(stage: Stage, params: Any) -> None:
    worker = await stage.serve(asking_agent([]))
    caller = (await stage.client()).caller
    call = Call("asker", RESUME, Body(params), scope_for(5), instance=worker.instance)
    with pytest.raises((errors.QuestionLost, errors.InvalidParams)):
        await caller.call(call)


async def test_a_drain_waits_for_answers_and_then_gives_up(stage: Stage) -> None:
    worker = await stage.serve(asking_agent([]))
    caller = (await stage.client()).caller
    asked = Asked.of(await caller.call(order()))
    assert asked is not None
    draining = asyncio.create_task(stage.stop(worker, 0.2))
    await asyncio.wait_for(draining, 5)
    with pytest.raises(errors.QuestionLost):
        await follow_up(caller, order(), asked, {"1": accept(size=1)})


async def test_a_drain_brings_the_answers_to_whoever_waits_for_them(stage: Stage) -> None:
    done: list[Any] = []
    worker = await stage.serve(asking_agent(done))
    caller = (await stage.client()).caller
    asked = Asked.of(await caller.call(order()))
    assert asked is not None
    draining = asyncio.create_task(stage.stop(worker, 10))
    await until_refused(caller)
    asked = Asked.of(await follow_up(caller, order(), asked, {"1": accept(size=1)}))
    assert asked is not None
    asked = Asked.of(await follow_up(caller, order(), asked, {"2": accept(color="red")}))
    assert asked is not None
    assert not draining.done()
    said = await answer("sampling/createMessage", {})
    end = (await follow_up(caller, order(), asked, {"3": said})).value()
    assert end["structuredContent"] == {"result": "hat 1 red: nice"}
    assert done == ["reserved hat", "ordered hat"]
    await asyncio.wait_for(draining, 5)


async def until_refused(caller: Caller) -> None:
    """Return once no instance takes calls to the agent any more."""
    heard = Ear()
    client = uuid4().hex
    hearing = await caller.transport.subscribe(subjects.replies(client), heard)
    for number in itertools.count():
        reply = subjects.reply(client, time.time() + 5, number)
        await caller.transport.publish(Message(subjects.call("asker", "fabric/describe"), EMPTY, reply=reply))
        if (await heard.wait(number + 1))[-1].header(subjects.Header.STATUS) is not None:
            break
    await hearing.close()


def test_the_state_of_others_is_none_of_ours() -> None:
    for state in (None, 7, "", "x", "fabric:", "fabric:{}", "fabric:[1]", 'fabric:["i","d",3]'):
        assert Waiting.of(state) is None
    waiting = Waiting("i", "d", {"1": {"action": "accept"}})
    assert Waiting.of(waiting.state()) == waiting


@pytest.mark.filterwarnings("ignore:The sampling capability")
async def test_a_hosted_server_asks_as_it_does_elsewhere(stage: Stage) -> None:
    server, done = MCPServer("asker"), list[str]()

    @server.tool()
    async def order(what: str, ctx: McpContext[Any, Any]) -> str:  # pyright: ignore[reportUnusedFunction]
        done.append("reserved")
        size = await ctx.elicit("Which size?", Size)
        assert size.action == "accept"
        said = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
            messages=[mcp_types.SamplingMessage(role="user", content=mcp_types.TextContent(text="Say something."))],
            max_tokens=10,
        )
        done.append("ordered")
        assert isinstance(said.content, mcp_types.TextContent)
        return f"{what} {size.data.size} {said.content.text}"

    await stage.serve(HostedServer(server))
    client = (await stage.client()).agent("asker")
    assert await client.call("order", {"what": "hat"}, on_ask=answer) == "hat 42 nice"
    assert done == ["reserved", "ordered"]
