"""Tasks and schedules of a capability wait in a queue of its own, for whoever has it. Proves: MB-1 (tasks)."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from support.waiting import until
from tasks.conftest import Serve

from fabric.durable.tasks import listed, located
from fabric_sdk import Agent, Context, Fabric, Policy, TaskDead
from fabric_sdk.patterns.dead import DeadLetter, Which

pytestmark = pytest.mark.anyio


def able(agent: Agent, *, number: int) -> Agent:
    """Another agent with the capability that is called as `agent` is."""
    other = Agent(f"{agent.name}-{number}", capabilities={agent.name})

    @other.tool
    async def who(context: Context) -> str:
        await asyncio.sleep(0.02)  # the work: long enough for several to be in hand at once
        return context.agent

    @other.tool(task=Policy(attempts=1))
    async def fail(context: Context) -> None:
        raise ValueError(context.key)

    return other


async def test_tasks_wait_for_whoever_has_it_and_are_shared(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    whoever = fabric.capability(agent.name)
    tasks = await fabric.start_all([whoever.plan("who") for _ in range(40)])  # nobody is there yet
    later = await whoever.start("who", delay=0.2)
    first, second = [able(agent, number=number) for number in (1, 2)]
    await serve(first, tasks=2)
    await serve(second, tasks=2)
    done = Counter(await asyncio.gather(*(task.result(timeout=20) for task in (*tasks, later))))
    assert done.keys() == {first.name, second.name}
    assert done.total() == 41
    assert (await tasks[0].status()).agent == f"@{agent.name}"


async def test_a_key_is_the_capability_s_own_whoever_does_it(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    whoever = fabric.capability(agent.name)
    first, again = [await whoever.start("who", key="k") for _ in range(2)]
    assert (first.id, again.joined) == (again.id, True)
    for number in (1, 2):
        await serve(able(agent, number=number))
    results = [await task.result(timeout=10) for task in (first, again, await whoever.start("who", key="k"))]
    assert len(set(results)) == 1
    own = await fabric.agent(f"{agent.name}-1").start("who", key="k")
    assert own.id != first.id
    assert await own.result(timeout=10) == f"{agent.name}-1"


async def test_the_dead_are_redriven_to_whoever_has_it(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    whoever = fabric.capability(agent.name)
    await serve(able(agent, number=1))
    task = await whoever.start("fail", key="fails")
    with pytest.raises(TaskDead, match="fails"):
        await task.result(timeout=10)

    async def letters() -> list[DeadLetter]:
        return [letter async for letter in fabric.dead.find(Which(agent=f"@{agent.name}"))]

    (letter,) = await letters()
    assert await fabric.dead.redrive(letter)
    (again,) = await until(letters, len, what="the second letter")
    assert (again.id, len(again.errors)) == (task.id, 2)


async def test_a_task_in_hand_is_cancelled_and_a_schedule_fires(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    whoever, began, cancelled = fabric.capability(agent.name), asyncio.Event(), asyncio.Event()
    other = able(agent, number=1)

    @other.tool
    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await serve(other)
    await whoever.schedule("often", "every 1s", "hang")
    async with asyncio.timeout(10):
        await began.wait()
    await whoever.unschedule("often")
    (running, *_) = await listed(fabric, agent=f"@{agent.name}", state="running")
    assert await listed(fabric, agent=other.name) == []
    assert (await (await located(fabric, running.id)).cancel()).state == "cancelled"
    async with asyncio.timeout(10):
        await cancelled.wait()
