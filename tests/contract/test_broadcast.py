"""One call to every instance of an agent, on every transport. Proves: MB-7."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from support.waiting import Ear

from fabric_sdk import Agent, Context, ToolError
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.patterns import broadcast as broadcasting
from fabric_sdk.patterns import call as calling
from fabric_sdk.transports.base import Transport
from tests.contract.conftest import Stage

pytestmark = pytest.mark.anyio

_numbers = count()


@pytest.fixture
def name() -> str:
    return f"broadcast-{next(_numbers)}"


def answering(name: str) -> Agent:
    """An agent that says who it is, unless it is told that it cannot."""
    agent = Agent(name)

    @agent.tool
    async def who(context: Context, refusing: str = "", failing: str = "", hanging: str = "") -> str:
        if context.instance == refusing:
            raise ToolError("not me")
        if context.instance == failing:
            raise errors.HandlerFailed("broken")
        if context.instance == hanging:
            await asyncio.Event().wait()
        return f"I am {context.instance}"

    return agent


async def test_every_instance_answers_and_nobody_else(stage: Stage, name: str) -> None:
    workers = [await stage.serve(answering(name)) for _ in range(5)]
    await stage.serve(answering(f"{name}-other"))
    client = (await stage.client()).agent(name)
    answers = await client.broadcast("who")
    assert answers == {worker.instance: f"I am {worker.instance}" for worker in workers}
    assert [worker.served for worker in workers] == [1] * 5


async def test_one_that_fails_fails_alone(stage: Stage, name: str) -> None:
    first, second, third, fourth = [(await stage.serve(answering(name))).instance for _ in range(4)]
    client = (await stage.client()).agent(name)
    began = time.monotonic()
    asked = {"refusing": first, "failing": second, "hanging": third}
    answers = await client.broadcast("who", asked, timeout=1.0)
    assert 0.9 < time.monotonic() - began < 5, "as long as the one that hangs may take"
    assert answers.keys() == {first, second, third, fourth}
    refused, failed, hung, said = (answers[each] for each in (first, second, third, fourth))
    assert isinstance(refused, ToolError)
    assert str(refused) == "not me"
    assert isinstance(failed, errors.FabricError)
    assert "broken" in str(failed)
    assert isinstance(hung, errors.DeadlineExceeded)
    assert said == f"I am {fourth}"


async def test_a_tool_that_nobody_has_is_an_error_of_each(stage: Stage, name: str) -> None:
    instances = {(await stage.serve(answering(name))).instance for _ in range(2)}
    answers = await (await stage.client()).agent(name).broadcast("absent")
    assert answers.keys() == instances
    assert all(isinstance(answer, errors.InvalidParams) for answer in answers.values())


async def test_without_an_instance_there_is_nobody_to_ask(stage: Stage, name: str) -> None:
    client = (await stage.client()).agent(name)
    with pytest.raises(errors.AgentUnavailable, match=f"agent '{name}' has no instance"):
        await client.broadcast("who")
    await stage.stop(await stage.serve(answering(name)))
    with pytest.raises(errors.AgentUnavailable):
        await client.broadcast("who")


def after_counting(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Awaitable[object]]) -> None:
    """See to it that something happens between the count of instances and the calls to them."""
    really_gather = broadcasting.gather

    async def gather(transport: Transport, subject: str, *, seconds: float, most: int | None = None) -> list[Any]:
        found = await really_gather(transport, subject, seconds=seconds, most=most)
        if ".PING." in subject:
            await do()
        return found

    monkeypatch.setattr(broadcasting, "gather", gather)


async def test_one_that_leaves_after_it_was_counted_is_an_error_at_once(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, leaves = await stage.serve(answering(name)), await stage.serve(answering(name))
    after_counting(monkeypatch, lambda: stage.stop(leaves))
    client = (await stage.client()).agent(name)
    began = time.monotonic()
    answers = await client.broadcast("who", timeout=30.0)
    assert time.monotonic() - began < calling.PATIENCE / 2
    assert answers.keys() == {stays.instance, leaves.instance}
    assert answers[stays.instance] == f"I am {stays.instance}"
    assert isinstance(answers[leaves.instance], errors.AgentUnavailable)


async def test_one_that_is_leaving_is_an_error_at_once(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, holds, go = answering(name), asyncio.Event(), asyncio.Event()

    @agent.tool
    async def hold() -> None:
        holds.set()
        await go.wait()

    leaves, fabric = await stage.serve(agent), await stage.client()
    client, really_gather = fabric.agent(name), broadcasting.gather
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.call("hold"))  # it stays until this is done
        await holds.wait()

        async def leave() -> None:
            tasks.create_task(stage.stop(leaves))
            subject = subjects.direct(leaves.instance, "fabric/describe")
            while await really_gather(fabric.transport, subject, seconds=5.0, most=1):
                pass  # it still takes calls

        after_counting(monkeypatch, leave)
        began = time.monotonic()
        answers = await client.broadcast("who", timeout=30.0)
        assert time.monotonic() - began < calling.PATIENCE / 2
        assert isinstance(answers[leaves.instance], errors.AgentUnavailable)
        go.set()


@pytest.mark.parametrize("stats", [{"endpoints": [{"data": {"beat": {"state": "ready"}}}]}, {"endpoints": []}, []])
async def test_one_that_is_there_and_takes_no_calls_yet_is_waited_for(stage: Stage, name: str, stats: Any) -> None:
    transport, instance, tasks = await stage.bus.connect(), f"{name}-1", set[asyncio.Task[None]]()

    def answering_with(answer: Any) -> Callable[[Message], None]:
        def receive(message: Message) -> None:
            tasks.add(asyncio.create_task(transport.publish(Message(message.reply, Body(answer)))))

        return receive

    async def take_calls(message: Message) -> None:
        result: dict[str, Any] = {"content": [], "structuredContent": {"said": "here"}}
        await transport.subscribe(subjects.direct(instance, "tools/call"), answering_with(result))
        answering_with(stats)(message)

    def asked(message: Message) -> None:
        tasks.add(asyncio.create_task(take_calls(message)))

    await transport.subscribe(subjects.service("PING", name), answering_with({"id": instance}))
    await transport.subscribe(subjects.service("STATS", name, instance), asked)
    answers = await (await stage.client()).agent(name).broadcast("who", timeout=30.0)
    assert answers == {instance: {"said": "here"}}


async def test_what_else_answers_a_ping_is_no_instance_and_does_no_harm(stage: Stage, name: str) -> None:
    worker = await stage.serve(answering(name))
    other, client = (await stage.client()).transport, await stage.client()
    pinged, tasks = Ear(), set[asyncio.Task[None]]()

    def answer(message: Message) -> None:
        pinged(message)
        for said in (b"{broken", b"[1]", b"null", b'"text"', b'{"name": "x"}'):
            tasks.add(asyncio.create_task(other.publish(Message(message.reply, Body(encoded=said)))))

    subscription = await other.subscribe(subjects.service("PING", name), answer)
    await other.flush()
    answers = await client.agent(name).broadcast("who")
    assert answers == {worker.instance: f"I am {worker.instance}"}
    assert len(pinged.heard) == 1
    assert len(tasks) == 5
    await subscription.close()


async def test_a_closed_client_cannot_ask(nats_stage: Stage, name: str) -> None:
    await nats_stage.serve(answering(name))
    client = await nats_stage.client()
    await client.transport.close()
    with pytest.raises(errors.TransportUnavailable):
        await client.agent(name).broadcast("who")
