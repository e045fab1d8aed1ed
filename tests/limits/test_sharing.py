"""Gateways that even out their limits through a real registry on a real Valkey, and go on when these are away.

Proves: GW-8, SE-6 (exact to within a stated bound over N replicas).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from math import inf
from typing import Any
from uuid import uuid4

import pytest
from registry.servers import Server, running, valkey

from fabric.limits.limiter import Limiter
from fabric.limits.rules import Limits, Rule
from fabric.limits.sharing import INTERVAL, Sharing
from fabric.registry import keys
from fabric.registry.service import build
from fabric_sdk import Agent, Fabric
from fabric_sdk.cancelling import end
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from limits.helpers import most_above, take


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with running(valkey()) as server:
        yield server


@pytest.fixture
async def fabric(server: Server) -> AsyncGenerator[Fabric]:
    """A bus with a registry. What earlier tests counted is still there; `rule` has names of its own."""
    bus = MemoryTransport()
    async with registry(bus, server), Fabric.over(bus) as fabric:
        yield fabric
    await bus.close()


@asynccontextmanager
async def registry(bus: MemoryTransport, server: Server) -> AsyncGenerator[None]:
    worker = Worker(bus, build(server.url))
    await worker.start()
    try:
        yield
    finally:
        await worker.drain(0.0)


def rule(rate: float = inf, burst: int = 1, **more: Any) -> Rule:
    return Rule(f"r-{uuid4().hex}", "client", rate, burst, **more)


def gateway(fabric: Fabric, rule: Rule) -> tuple[Limiter, Sharing]:
    limits = Limiter(Limits((rule,)), time.monotonic(), time.time())
    return limits, Sharing(limits, fabric)


async def test_three_gateways_together_keep_to_the_bound(fabric: Fabric) -> None:
    rate, burst, seconds = 100.0, 10, 1.5
    shared = rule(rate, burst)
    gateways = [gateway(fabric, shared) for _ in range(3)]
    running = [asyncio.create_task(sharing.run()) for _, sharing in gateways]
    let_through = list[float]()
    slowest, last = 0.0, time.monotonic()
    try:
        start = last
        while (now := time.monotonic()) < start + seconds:
            slowest, last = max(slowest, now - last), now  # what a busy machine adds to each exchange
            for limits, _ in gateways:
                while take(limits, now):
                    let_through.append(now)
            await asyncio.sleep(0.005)
    finally:
        await end(running)
    assert most_above(let_through, rate) <= 3 * (burst + rate * (INTERVAL + 4 * slowest + 0.05))
    assert rate * seconds < len(let_through) < 3 * rate * seconds, "each by itself has all of it"


async def test_a_day_is_counted_for_all_and_outlives_a_gateway(fabric: Fabric) -> None:
    shared = rule(daily=10)
    (one, tells), (other, hears) = gateway(fabric, shared), gateway(fabric, shared)
    now = time.monotonic()
    assert [take(one, now) for _ in range(7)] == [True] * 7
    await tells.exchange()
    assert take(other, now)
    await hears.exchange()
    assert [take(other, now) for _ in range(3)] == [True, True, False]
    await hears.exchange()
    restarted, after = gateway(fabric, shared)
    assert take(restarted, now), "it cannot know yet"
    await after.exchange()
    assert not take(restarted, now)


async def test_each_client_has_its_own_everywhere(fabric: Fabric) -> None:
    shared = rule(daily=2)
    (one, tells), (other, hears) = gateway(fabric, shared), gateway(fabric, shared)
    now = time.monotonic()
    assert [take(one, now, client="ann") for _ in range(3)] == [True, True, False]
    await tells.exchange()
    assert take(other, now, client="bob")
    assert take(other, now, client="ann")
    await hears.exchange()
    assert take(other, now, client="bob")
    assert not take(other, now, client="ann")


async def test_without_redis_or_registry_each_goes_on_by_itself_and_says_so_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    bus = MemoryTransport()
    shared = rule(daily=5)
    async with Fabric.over(bus) as fabric:
        (one, tells), (other, hears) = gateway(fabric, shared), gateway(fabric, shared)
        now = time.monotonic()
        assert take(one, now)
        await tells.exchange()
        async with registry(bus, server):
            server.stop()
            try:
                assert [take(one, now) for _ in range(2)] == [True, True]
                for _ in range(3):
                    await tells.exchange()
            finally:
                server.start()
            said = [message for message in caplog.messages if "by itself" in message]
            assert len(said) == 1
            assert said[0].startswith("each gateway counts its limits by itself for now: ")

            await tells.exchange()
            await tells.exchange()
            assert caplog.messages[-1] == "the gateways count their limits together again"
            assert take(other, now)
            await hears.exchange()
            assert [take(other, now) for _ in range(2)] == [True, False], "all three of the other count, each once"
    await bus.close()


@pytest.mark.parametrize("answer", [[], [{"ahead": "soon", "used": 1}], {"ahead": 1.0}, None, "x"])
async def test_a_registry_that_answers_nonsense_is_as_one_that_is_away(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    other = Agent("registry", kind="platform")

    @other.tool
    async def spend(spender: str, number: int, spent: list[dict[str, Any]]) -> Any:
        return answer

    bus = MemoryTransport()
    worker = Worker(bus, other)
    await worker.start()
    async with Fabric.over(bus) as fabric:
        limits, sharing = gateway(fabric, rule(daily=2))
        now = time.monotonic()
        assert take(limits, now)
        for _ in range(2):
            await sharing.exchange()
        assert [take(limits, now) for _ in range(2)] == [True, False]
    assert len([message for message in caplog.messages if "by itself" in message]) == 1
    await worker.drain(0.0)
    await bus.close()


async def test_nothing_is_asked_while_nothing_is_used(fabric: Fabric, server: Server) -> None:
    with server.client() as client:
        told = client.keys(keys.told("*"))
        _, sharing = gateway(fabric, rule(1.0))
        await sharing.exchange()
        limits, sharing = gateway(fabric, rule(concurrency=1))
        assert take(limits, time.monotonic())
        await sharing.exchange()
        assert client.keys(keys.told("*")) == told
        limits, sharing = gateway(fabric, rule(1.0))
        assert take(limits, time.monotonic())
        await sharing.exchange()
        assert len(client.keys(keys.told("*"))) == len(told) + 1
