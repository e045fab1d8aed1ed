"""A call is answered with its handler's question once, though the way to the caller be so full that this takes long.

Proves: TR-1 (asking), PT-1 (cancellation)
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from support.waiting import Ear

from fabric_sdk import Agent, Context
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.asking import CAPABILITIES, RESUME, Asked, Waiting
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Limits, Worker

pytestmark = pytest.mark.anyio


class FullWay(MemoryTransport):
    """A question is with its caller long before whoever sent it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.room = asyncio.Event()

    async def publish(self, message: Message) -> None:
        await super().publish(message)
        if Asked.of(message.body) is not None:
            await self.room.wait()


class Stage:
    """A worker of one place, whose only tool asks, and one who calls it."""

    def __init__(self) -> None:
        self.bus, self.answers, self.done = FullWay(), Ear(), asyncio.Event()
        agent = Agent("asker")

        @agent.tool
        async def order(context: Context) -> str:
            try:
                return (await context.elicit("Which size?", {"type": "object"})).action
            finally:
                self.done.set()

        self.worker = Worker(self.bus, agent, limits=Limits(concurrency=1, queue=0))

    async def start(self) -> None:
        await self.worker.start()
        await self.bus.subscribe(subjects.replies("tester"), self.answers)

    async def ask(self, number: int) -> tuple[str, Waiting]:
        """Call, and hear the question, as the message of this number."""
        params: dict[str, Any] = {"name": "order", "arguments": {}, "_meta": {CAPABILITIES: {"elicitation": {}}}}
        reply = await self.send(number, subjects.call("asker", "tools/call"), Body(params))
        asked = (await self.answers.wait(number))[-1]
        waiting = Waiting.of((Asked.of(asked.body) or Asked({})).state)
        assert waiting is not None
        return reply, waiting

    async def resume(self, number: int, waiting: Waiting) -> str:
        answers = {"id": waiting.id, "answers": {"1": {"action": "decline"}}}
        return await self.send(number, subjects.direct(self.worker.instance, RESUME), Body(answers))

    async def send(self, number: int, subject: str, body: Body) -> str:
        reply = subjects.reply("tester", time.time() + 10, number)
        await self.bus.publish(Message(subject, body, reply=reply))
        return reply

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.worker.drain()


async def test_an_answer_that_is_quicker_than_its_question_is_answered() -> None:
    stage = Stage()
    await stage.start()
    _, waiting = await stage.ask(1)
    reply = await stage.resume(2, waiting)
    stage.bus.room.set()
    (_, end) = await stage.answers.wait(2)
    assert end.subject == reply
    assert end.body.members()["structuredContent"] == {"result": "decline"}
    _, again = await stage.ask(3)
    assert again.id != waiting.id, "the only place is free again"
    await stage.resume(4, again)
    await stage.answers.wait(4)
    await stage.end()


async def test_a_call_that_ends_while_its_question_is_written_has_one_answer() -> None:
    stage = Stage()
    await stage.start()
    reply, waiting = await stage.ask(1)
    await stage.bus.publish(Message(subjects.control("asker"), Body({"cancel": reply})))
    await stage.done.wait()
    stage.bus.room.set()
    told = await stage.resume(2, waiting)
    heard = await stage.answers.wait(2)
    assert [message.subject for message in heard] == [reply, told], "whoever brings the answer is told how it ended"
    await stage.end()
