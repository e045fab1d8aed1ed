"""Readers and groups of events, while the server is killed and started again. Proves: EV-1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from support.events import data, take
from support.nats_server import PrivateNats

from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import TransportUnavailable
from fabric_sdk.jetstream import Claims
from fabric_sdk.patterns.event import Received

pytestmark = pytest.mark.anyio

COUNT = 5000


async def restart(server: PrivateNats) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def test_a_reader_misses_nothing_and_repeats_nothing(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as fabric, Fabric.connect(breakable.url) as other:
        flying = asyncio.Semaphore(64)
        a_third, two_thirds = asyncio.Event(), asyncio.Event()
        stored: list[int] = []

        async def publish(number: int) -> None:
            async with flying:
                stored.append((await fabric.publish("a", number)).sequence)
            (a_third if len(stored) > COUNT // 3 else asyncio.Event()).set()
            (two_thirds if len(stored) > 2 * COUNT // 3 else asyncio.Event()).set()

        async def restart_twice() -> None:
            for reached in (a_third, two_thirds):
                await reached.wait()
                await restart(breakable)

        async with (
            other.subscribe("a") as plain,
            other.subscribe("a", filter="data % 2 == 0") as even,
            other.subscribe("a", group="g") as member,
            asyncio.TaskGroup() as tasks,
        ):
            reading = tasks.create_task(take(plain, COUNT, seconds=40))
            filtering = tasks.create_task(take(even, COUNT // 2, seconds=40))
            sharing = tasks.create_task(all_of(member))
            tasks.create_task(restart_twice())
            await asyncio.gather(*map(publish, range(COUNT)))
            found, half, shared = await reading, await filtering, await sharing
        sequences = [event.sequence for event in found]
        assert sequences == sorted(set(sequences))
        assert sorted(event.data for event in found) == list(range(COUNT))
        assert [event.data for event in half] == [event.data for event in found if event.data % 2 == 0]
        assert shared == set(range(COUNT))
        assert set(stored) == set(sequences)


async def all_of(member: AsyncGenerator[Received]) -> set[int]:
    """What a group gets, until it is all; a part of it may come twice."""
    found: set[int] = set()
    async with asyncio.timeout(40):
        async for event in member:
            found.add(event.data)
            if len(found) == COUNT:
                break
    return found


async def test_readers_that_had_seen_nothing_yet_begin_where_they_began(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as fabric, Fabric.connect(breakable.url) as other:
        await fabric.publish("a", "before")
        async with other.subscribe("a") as new, other.subscribe("a", group="g") as member:
            waiting = [asyncio.create_task(data(events, 1, seconds=30)) for events in (new, member)]
            await fabric.publish("b", "something else")
            await restart(breakable)
            await fabric.publish("a", "after")
            assert await asyncio.gather(*waiting) == [["after"], ["after"]]


async def test_an_event_that_was_accepted_is_there_after_a_crash_of_everything(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as fabric:
        await fabric.publish("a", 1)
    await restart(breakable)
    async with Fabric.connect(breakable.url) as fabric, fabric.replay("a") as events:
        assert [event.data async for event in events] == [1]


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_large_event_is_waited_for_while_the_server_is_away(
    breakable: PrivateNats, monkeypatch: pytest.MonkeyPatch, group: str | None
) -> None:
    monkeypatch.setattr("fabric_sdk.jetstream.api.PATIENCE", 0.2)  # for one question
    large, redeem, given_up = "x" * 1_500_000, Claims.redeem, asyncio.Event()

    async def redeem_without_a_server(claims: Claims, claim: str) -> Body:
        if not given_up.is_set():
            await asyncio.to_thread(breakable.kill)
        try:
            return await redeem(claims, claim)
        except TransportUnavailable:
            given_up.set()
            raise

    async with (
        Fabric.connect(breakable.url) as fabric,
        Fabric.connect(breakable.url) as other,
        other.subscribe("a", group=group) as events,
    ):
        await fabric.publish("a", large)
        monkeypatch.setattr(Claims, "redeem", redeem_without_a_server)
        reading = asyncio.create_task(data(events, 1, seconds=30))
        await given_up.wait()
        await asyncio.to_thread(breakable.start)
        assert await reading == [large]
