"""What is addressed to whoever has a capability reaches one of them, or all, on every transport.

Proves: MB-1 (calls, streams), MB-7 (to all who have a capability), CM-1 (discovery on the bus).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from fabric_sdk import Agent, Context, Stream
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.patterns import call as calling
from fabric_sdk.patterns.call import Call, settled_safe
from fabric_sdk.patterns.gather import gather
from fabric_sdk.worker import Limits
from tests.contract.conftest import Stage

pytestmark = pytest.mark.anyio

_numbers = count()


@pytest.fixture
def able() -> str:
    """A capability that no other test knows."""
    return f"able-{next(_numbers)}"


def offering(name: str, *capabilities: str, **annotations: bool) -> Agent:
    """An agent whose tool says which agent it is."""
    agent = Agent(name, capabilities=capabilities, labels={"team": name})

    @agent.tool(annotations=annotations)
    async def who(context: Context) -> str:
        return context.agent

    @agent.stream
    async def greet(stream: Stream, context: Context) -> None:
        await stream.send(context.agent)

    return agent


async def test_one_of_those_who_have_it_takes_each_call(stage: Stage, able: str) -> None:
    for name, capabilities in (("one", [able, "more"]), ("two", [able]), ("three", ["more"])):
        await stage.serve(offering(f"{name}-{able}", *capabilities))
    whoever = (await stage.client()).capability(able)
    answers = Counter(await asyncio.gather(*(whoever.call("who") for _ in range(64))))
    assert answers.keys() == {f"one-{able}", f"two-{able}"}
    assert answers.total() == 64
    async with whoever.open("greet") as stream:
        assert [said async for said in stream] in ([f"one-{able}"], [f"two-{able}"])


async def test_one_who_is_full_leaves_the_call_to_another(stage: Stage, able: str) -> None:
    busy, holds, go = offering(f"busy-{able}", able), asyncio.Event(), asyncio.Event()

    @busy.tool
    async def hold() -> None:
        holds.set()
        await go.wait()

    await stage.serve(busy, limits=Limits(concurrency=1, queue=0))
    fabric = await stage.client()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fabric.agent(f"busy-{able}").call("hold"))
        await holds.wait()
        await stage.serve(offering(f"free-{able}", able))
        called = [fabric.capability(able).call("who") for _ in range(8)]
        assert set(await asyncio.gather(*called)) == {f"free-{able}"}
        go.set()


async def test_a_call_that_is_given_up_is_cancelled_where_it_is(stage: Stage, able: str) -> None:
    agent, began, ended = offering(f"slow-{able}", able), asyncio.Event(), asyncio.Event()

    @agent.tool
    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await stage.serve(agent)
    calling = asyncio.create_task((await stage.client()).capability(able).call("hang"))
    await began.wait()
    calling.cancel()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_a_broadcast_reaches_all_who_have_it(stage: Stage, able: str) -> None:
    agents = [offering(f"one-{able}", able), offering(f"two-{able}", able), offering(f"three-{able}", "other")]
    workers = [await stage.serve(agent) for agent in (*agents, agents[0])]
    answers = await (await stage.client()).capability(able).broadcast("who", timeout=10)
    expected = {worker.instance: worker.description.name for worker in workers}
    del expected[workers[2].instance]
    assert answers == expected


async def test_it_may_be_repeated_only_if_all_who_have_it_say_so(
    stage: Stage, able: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.serve(offering(f"one-{able}", able, readOnlyHint=True))
    fabric, asked = await stage.client(), list[Call]()
    really_call = fabric.caller.call

    async def call(call: Call) -> Body:
        asked.append(call)
        return await really_call(call)

    monkeypatch.setattr(fabric.caller, "call", call)
    await fabric.capability(able).call("who")
    (call_of_who,) = asked
    assert await settled_safe(replace(call_of_who))
    await stage.serve(offering(f"two-{able}", able))
    assert not await settled_safe(replace(call_of_who))


async def test_nobody_who_has_it_is_said_in_words(stage: Stage, able: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.1)
    whoever = (await stage.client()).capability(able)
    with pytest.raises(errors.AgentUnavailable, match=f"agents that can '{able}'"):
        await whoever.call("who", timeout=30)
    with pytest.raises(errors.AgentUnavailable, match=f"agents that can '{able}'"):
        await whoever.broadcast("who")


async def test_it_is_found_on_the_bus_alone(stage: Stage, able: str) -> None:
    worker = await stage.serve(offering(f"one-{able}", "zeta", able))
    fabric = await stage.client()
    (pinged,) = await gather(fabric.transport, subjects.service("PING", f"@{able}"), seconds=5, most=1)
    assert (pinged["name"], pinged["id"]) == (f"one-{able}", worker.instance)
    assert pinged["metadata"]["fabric.capabilities"] == f"{able},zeta"
    (stats,) = await gather(fabric.transport, subjects.service("STATS", "@zeta", worker.instance), seconds=5, most=1)
    beat = stats["endpoints"][0]["data"]["beat"]
    assert (beat["capabilities"], beat["labels"]) == ([able, "zeta"], {"team": f"one-{able}"})
    described = await fabric.agent(f"one-{able}").describe()
    assert (described.capabilities, described.labels) == ([able, "zeta"], {"team": f"one-{able}"})


@pytest.mark.parametrize(
    "said",
    [
        {"capabilities": {"lint.python"}},
        {"capabilities": {"@x"}},
        {"capabilities": "translate"},
        {"capabilities": [f"c{number}" for number in range(17)]},
        {"labels": {"a b": "c"}},
        {"labels": {"team": ""}},
        {"labels": {f"l{number}": "x" for number in range(17)}},
    ],
    ids=str,
)
def test_what_cannot_be_said_of_an_agent_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError):
        Agent("x", **said)
