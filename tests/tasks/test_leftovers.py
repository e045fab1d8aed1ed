"""What is too large for a message is kept apart, and goes with what it belongs to, though it was one too many.

Proves: MB-2 (of starts under one key, the one that waits keeps its params).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.nats_server import PrivateNats
from tasks.conftest import Serve

from fabric_sdk import Agent
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.streams import OBJECTS
from fabric_sdk.jetstream import Delivery, JetStream
from fabric_sdk.patterns.task import Tasks

LARGE = "x" * 1_200_000


@pytest.fixture
def large(agent: Agent) -> Agent:
    """An agent with a tool that is given much, and one that fails over it."""

    @agent.tool
    async def size(text: str) -> int:
        return len(text)

    @agent.tool
    async def fail(text: str) -> None:
        raise errors.Reject("no")

    return agent


@pytest.fixture
async def looks_too_early(fabric: Fabric, breakable: PrivateNats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a key looks before the other start is stored."""

    async def see_nothing(*_: Any) -> bool:
        return False

    monkeypatch.setattr(Tasks, "_is_known", see_nothing)


async def pieces(fabric: Fabric) -> int:
    await fabric.jetstream.ensure(OBJECTS)
    about = await fabric.jetstream.request(f"STREAM.INFO.{OBJECTS.name}")
    return int(about["state"]["messages"])


async def settled(fabric: Fabric, wanted: int) -> None:
    """Return once so many pieces are kept: a worker drops them after it told of the end."""
    async with asyncio.timeout(10):
        while await pieces(fabric) != wanted:  # noqa: ASYNC110 - what is waited for here sets no event
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("looks_too_early")
async def test_of_starts_that_race_the_one_that_waits_keeps_its_params(fabric: Fabric, large: Agent) -> None:
    client = fabric.agent(large.name)
    starts = [client.start("size", {"text": LARGE}, key="k") for _ in range(4)]
    tasks = await asyncio.gather(*starts)
    assert sorted(task.joined for task in tasks) == [False, True, True, True]
    assert await pieces(fabric) == 3
    await client.start("size", {"text": LARGE}, key="k", delay=60)
    assert await pieces(fabric) == 3
    await tasks[0].cancel()
    assert await pieces(fabric) == 0


@pytest.mark.usefixtures("looks_too_early")
async def test_what_is_started_again_after_its_end_leaves_nothing(fabric: Fabric, serve: Serve, large: Agent) -> None:
    await serve(large)
    client = fabric.agent(large.name)
    first = await client.start("size", {"text": LARGE}, key="k")
    assert await first.result(timeout=10) == len(LARGE)
    for how in ({}, {"priority": "high"}, {"delay": 0.2}):
        await client.start("size", {"text": LARGE}, key="k", **how)  # pyright: ignore[reportArgumentType]
    await settled(fabric, 0)


@pytest.mark.usefixtures("looks_too_early")
async def test_the_params_of_a_letter_stay(fabric: Fabric, serve: Serve, large: Agent) -> None:
    await serve(large)
    client = fabric.agent(large.name)
    dead = await client.start("fail", {"text": LARGE}, key="k")
    with pytest.raises(errors.TaskDead):
        await dead.result(timeout=10)
    await client.start("fail", {"text": LARGE}, key="k", priority="high")
    await settled(fabric, 3)
    assert await fabric.dead.redrive(await fabric.dead.show(dead.id))
    with pytest.raises(errors.TaskDead, match="no"):
        await dead.result(timeout=10)


async def test_a_start_whose_answer_was_lost_keeps_its_params(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, large: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Message] = []
    really_ask = JetStream.ask

    async def lose_one(self: JetStream, message: Message, *timeout: float) -> Message:
        answer = await really_ask(self, message, *timeout)
        if message.subject.startswith("fab.task.") and not lost:
            lost.append(answer)
            raise errors.TransportUnavailable("lost")
        return answer

    monkeypatch.setattr(JetStream, "ask", lose_one)
    task = await fabric.agent(large.name).start("size", {"text": LARGE}, key="k")
    assert lost
    await serve(large)
    assert await task.result(timeout=10) == len(LARGE)


async def test_what_a_full_stream_refuses_leaves_nothing(
    fabric: Fabric, breakable: PrivateNats, large: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_store = JetStream.store

    async def refuse(self: JetStream, subject: str, *rest: Any, **how: Any) -> Any:
        if subject.startswith(("fab.task.", "fab.event.")):
            raise errors.QueueFull("the queue takes no more")
        return await really_store(self, subject, *rest, **how)

    monkeypatch.setattr(JetStream, "store", refuse)
    with pytest.raises(errors.QueueFull):
        await fabric.agent(large.name).start("size", {"text": LARGE})
    with pytest.raises(errors.QueueFull):
        await fabric.publish("large.one", LARGE)
    assert await pieces(fabric) == 0


async def test_an_event_that_is_published_again_leaves_nothing(fabric: Fabric, breakable: PrivateNats) -> None:
    first, again, third = [await fabric.publish("large.one", LARGE, id="same") for _ in range(3)]
    assert first.sequence == again.sequence == third.sequence
    assert await pieces(fabric) == 3
    async with fabric.replay("large.one") as events:
        assert [event.data async for event in events] == [LARGE]


async def test_a_message_that_is_delivered_again_after_its_end_leaves_nothing(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, large: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = asyncio.Event()
    really_ack = Delivery.ack

    async def lose_the_first(self: Delivery) -> None:
        if self.attempt == 1:
            await self.nak()  # as if its worker had died between its last write and its acknowledgement
            raise asyncio.CancelledError
        await really_ack(self)
        again.set()

    monkeypatch.setattr(Delivery, "ack", lose_the_first)
    await serve(large)
    task = await fabric.agent(large.name).start("size", {"text": LARGE})
    assert await task.result(timeout=10) == len(LARGE)
    await asyncio.wait_for(again.wait(), 20)
    await settled(fabric, 0)
