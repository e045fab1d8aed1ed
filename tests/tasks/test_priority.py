"""Four classes: what is critical waits for hands, not for the queue, and what is low is done all the same.

Proves: MB-4, PT-2.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter

import pytest
from support.nats_server import PrivateNats
from support.waiting import eventually
from tasks.conftest import Serve

from fabric_sdk import Agent
from fabric_sdk.client import Fabric
from fabric_sdk.contracts.task import PRIORITIES

pytestmark = pytest.mark.timeout(120)

HANDS = 64
HANDLER_SECONDS = 0.1
"""Long enough for all hands in one process: with 5 ms, it would be the interpreter that tasks wait for."""
QUEUED = int(os.environ.get("QUEUED", "3000"))
"""QUEUED=10000 shows the same for as many as are promised, in a minute more."""

ROUNDS = 3
"""The best of them is timed: what else the machine does is no matter of priorities."""


async def test_critical_tasks_overtake_thousands_of_low_ones(
    fabric: Fabric, breakable: PrivateNats, serve: Serve
) -> None:
    crew = Agent("crew")
    begun: dict[int, float] = {}

    @crew.tool
    async def work(number: int) -> None:
        begun[number] = time.time()
        await asyncio.sleep(HANDLER_SECONDS)

    client = fabric.agent("crew")
    for first in range(0, QUEUED, 1000):
        await fabric.start_all([client.plan("work", {"number": n}, priority="low") for n in range(first, first + 1000)])
    await serve(crew, tasks=HANDS)
    await eventually(lambda: len(begun) > 200, what="a worker that is busy with low tasks")
    late: list[float] = []
    for first in range(QUEUED, QUEUED + ROUNDS * 100, 100):
        before, numbers = len(begun), range(first, first + 100)
        plans = [client.plan("work", {"number": n}, priority="critical") for n in numbers]
        stored = time.time()
        await fabric.start_all(plans)
        await eventually(lambda numbers=numbers: all(n in begun for n in numbers), what="the critical tasks")
        low_meanwhile = len(begun) - before - 100
        delays = sorted(begun[n] - stored for n in numbers)
        late.append(delays[98])
        print(
            f"critical: median {delays[50] * 1000:.0f} ms, p99 {late[-1] * 1000:.0f} ms; {low_meanwhile} low meanwhile"
        )
        assert low_meanwhile < 2 * HANDS, "they waited for what was running, and its place"
    assert min(late) < 5 * HANDLER_SECONDS
    await eventually(lambda: len(begun) == QUEUED + ROUNDS * 100, what="all low tasks", seconds=60)


async def test_a_flood_of_critical_tasks_starves_nobody(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    done: list[str] = []

    @agent.tool
    async def work(priority: str) -> None:
        await asyncio.sleep(0.005)
        done.append(priority)

    client = fabric.agent(agent.name)

    async def flood(count: int, *priorities: str) -> None:
        await fabric.start_all(
            [
                client.plan("work", {"priority": each}, priority=each)
                for each in PRIORITIES
                if each in priorities
                for _ in range(count)
            ]
        )

    await flood(250, *PRIORITIES)
    await serve(agent, tasks=4)
    for seen in range(400, 1600, 400):  # there is more that is critical at any time
        await eventually(lambda seen=seen: len(done) >= seen, what=f"{seen} tasks")
        await flood(400, "critical")
    shares = Counter(done[200:1600])
    print(f"done while all waited: {dict(shares)}")
    assert shares["critical"] > 2 * shares["high"] > 4 * shares["normal"] > 4 * shares["low"] > 0


async def test_what_waits_at_a_busy_worker_goes_to_one_with_free_hands(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    begun: list[str] = []
    go = asyncio.Event()

    @agent.tool
    async def hold() -> None:
        begun.append("hold")
        await go.wait()

    @agent.tool
    async def quick() -> float:
        return time.time()

    await serve(agent, tasks=8)
    client = fabric.agent(agent.name)
    held = await fabric.start_all([client.plan("hold", priority="low") for _ in range(8)])
    await eventually(lambda: len(begun) == 8, what="a worker with all hands full")
    stored = time.time()
    waiting = await fabric.start_all([client.plan("quick", priority="critical") for _ in range(20)])
    await serve(agent, tasks=8)
    at = await asyncio.gather(*(task.result(timeout=20) for task in waiting))
    print(f"taken over after {max(at) - stored:.1f} s at most")
    assert all([(await task.status()).attempt == 1 for task in waiting])
    go.set()
    await asyncio.gather(*(task.result(timeout=20) for task in held))
