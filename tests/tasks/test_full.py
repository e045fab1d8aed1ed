"""Streams that are full: who starts a task is told, and nothing that was accepted is lost. Proves: MB-2, MB-3, PT-2."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.nats_server import PrivateNats
from support.waiting import eventually
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.streams import RECORDS, TASKS, Stream
from fabric_sdk.handle import Task


async def limit(fabric: Fabric, stream: Stream, **limits: int) -> None:
    """Change a stream's limits, as an operator does."""
    await fabric.jetstream.ensure(stream)
    info = await fabric.jetstream.request(f"STREAM.INFO.{stream.name}")
    await fabric.jetstream.request(f"STREAM.UPDATE.{stream.name}", info["config"] | limits)


async def used(fabric: Fabric, stream: Stream) -> int:
    return (await fabric.jetstream.request(f"STREAM.INFO.{stream.name}"))["state"]["bytes"]


async def test_a_full_queue_refuses_at_once_in_words_and_takes_more_when_there_is_room(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent
) -> None:
    @agent.tool
    async def echo(value: int) -> int:
        return value

    client = fabric.agent(agent.name)
    await limit(fabric, TASKS, max_msgs=5)
    tasks = [await client.start("echo", {"value": n}) for n in range(5)]
    began = time.monotonic()
    for refused in (
        client.start("echo", {"value": 9}),
        client.start("echo", {"value": 9}, key="new"),
        fabric.start_all([client.plan("echo", {"value": 9}) for _ in range(3)]),
    ):
        with pytest.raises(errors.QueueFull, match="takes no more") as full:
            await refused
        assert full.value.retryable
        assert not full.value.started
    assert time.monotonic() - began < 5, "nobody waits for room that may never come"
    await serve(agent)
    assert await asyncio.gather(*(task.result(timeout=10) for task in tasks)) == list(range(5))

    async def taken() -> Task:
        while True:  # its acknowledgements are on their way
            try:
                return await client.start("echo", {"value": 9}, key="new")
            except errors.QueueFull:
                await asyncio.sleep(0.01)

    assert await (await asyncio.wait_for(taken(), 10)).result(timeout=10) == 9


async def test_a_batch_that_does_not_fit_leaves_nothing_behind(
    fabric: Fabric, breakable: PrivateNats, agent: Agent
) -> None:
    client = fabric.agent(agent.name)
    await limit(fabric, TASKS, max_msgs=5)
    await client.start("echo")
    with pytest.raises(errors.QueueFull):
        await fabric.start_all([client.plan("echo") for _ in range(6)])
    await fabric.start_all([client.plan("echo") for _ in range(4)])
    info = await fabric.jetstream.request(f"STREAM.INFO.{TASKS.name}")
    assert info["state"]["messages"] == 5


async def test_where_no_record_can_be_written_work_waits_and_is_not_done_again(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    @agent.tool(task=Policy(attempts=2))
    async def work(context: Context, n: int) -> int:
        ran.append(n)
        return n

    @agent.tool(task=Policy(attempts=1))
    async def fail() -> None:
        ran.append(-1)
        raise ValueError("as it should")

    await serve(agent)
    client = fabric.agent(agent.name)
    await limit(fabric, RECORDS, max_bytes=1)
    plain = await fabric.start_all([client.plan("work", {"n": n}) for n in range(10)])
    dying = await client.start("fail")
    keyed = [await client.start("work", {"n": n}, key=f"k{n}") for n in range(10, 15)]
    await eventually(lambda: len(ran) == 11, what="the work that needs no record before")
    await eventually(lambda: "cannot be written down yet" in caplog.text, what="a word to the operator")
    assert {(await task.status()).ended for task in (*plain, dying, *keyed)} == {False}
    await limit(fabric, RECORDS, max_bytes=RECORDS.options["max_bytes"])
    assert [await task.result(timeout=20) for task in (*plain, *keyed)] == list(range(15))
    with pytest.raises(errors.TaskDead, match="as it should"):
        await dying.result(timeout=20)
    assert (await fabric.dead.show(dying.id)).errors[0]["attempt"] == 1
    assert sorted(ran) == list(range(-1, 15)), "each once: its end was waited with, not its work repeated"
    assert await used(fabric, RECORDS) > 0


async def test_a_worker_leaves_although_nothing_can_be_written(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent
) -> None:
    begun = asyncio.Event()

    @agent.tool
    async def work() -> str:
        begun.set()
        return "done"

    first = await serve(agent, tasks=1)
    client = fabric.agent(agent.name)
    await limit(fabric, RECORDS, max_bytes=1)
    ending, waiting = await client.start("work"), await client.start("work", priority="low")
    await begun.wait()
    await eventually(lambda: first.load().waiting == 1, what="a task without a hand")
    await asyncio.wait_for(first.drain(0), 20)
    assert [(await task.status()).state for task in (ending, waiting)] == ["queued", "queued"]
