"""A call that is cancelled in the moment it arrives gives its place back.

Call and cancellation often come in one piece off the wire, so that the cancellation is heard before the call's task has
taken its first step. Proves: PT-1 (cancellation), RT-6 (drain on stop)
"""

from __future__ import annotations

import asyncio
import time

import pytest
from support.waiting import Ear

from fabric_sdk import Agent, Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import CallCancelled
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Limits, Worker

pytestmark = pytest.mark.anyio


async def test_a_call_cancelled_as_it_arrives_is_never_begun_and_gives_its_place_back() -> None:
    agent = Agent("early")
    begun: list[str] = []

    @agent.tool
    async def work(text: str) -> str:
        begun.append(text)
        return text

    bus, answers = MemoryTransport(), Ear()
    worker = Worker(bus, agent, limits=Limits(concurrency=1, queue=0))
    await worker.start()
    await bus.subscribe(subjects.replies("tester"), answers)
    reply = subjects.reply("tester", time.time() + 10, 1)
    call = Body({"name": "work", "arguments": {"text": "cancelled"}})
    await bus.publish(Message(subjects.call("early", "tools/call"), call, reply=reply))
    await bus.publish(Message(subjects.control("early"), Body({"cancel": reply})))
    (answer,) = await answers.wait()
    assert answer.header(Header.ERROR_CODE) == str(CallCancelled.code)

    async with Fabric.over(bus) as fabric:
        assert await fabric.agent("early").call("work", {"text": "next"}) == "next", "the only place is free again"
    assert begun == ["next"]
    async with asyncio.timeout(5):
        await worker.drain()
