"""The past again: from a time or a place, to a time, a place or now, at full or at its own speed.

Proves: EV-3, EV-2.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from support.events import data, publish_all, take

from fabric_sdk import Event, Fabric
from fabric_sdk.contracts.errors import InvalidParams

pytestmark = pytest.mark.anyio


async def replayed(fabric: Fabric, *topics: str, **how: Any) -> list[Any]:
    """What a replay shows, to its end."""
    async with asyncio.timeout(15), fabric.replay(*topics, **how) as events:
        return [event.data async for event in events]


async def apart(fabric: Fabric, topic: str, count: int, seconds: float) -> list[tuple[Event, datetime]]:
    """Events so far apart, each with a time between it and the next."""
    published: list[tuple[Event, datetime]] = []
    for number in range(count):
        event = await fabric.publish(topic, number)
        await asyncio.sleep(seconds / 2)
        published.append((event, datetime.now(UTC)))
        await asyncio.sleep(seconds / 2)
    return published


async def test_from_and_to_times_and_places(fabric: Fabric, word: str) -> None:
    topic = f"{word}.a"
    published = await apart(fabric, topic, 6, 0.02)
    await fabric.publish(f"{word}.b", "another topic")
    places, times = [event.sequence for event, _ in published], [after for _, after in published]
    assert await replayed(fabric, topic) == [0, 1, 2, 3, 4, 5]
    assert await replayed(fabric, topic, start=places[2]) == [2, 3, 4, 5]
    assert await replayed(fabric, topic, start=times[2]) == [3, 4, 5]
    assert await replayed(fabric, topic, until=places[2]) == [0, 1, 2]
    assert await replayed(fabric, topic, until=times[2]) == [0, 1, 2]
    assert await replayed(fabric, topic, start=times[0], until=times[3]) == [1, 2, 3]
    assert await replayed(fabric, topic, start=places[1], until=places[1]) == [1]
    assert await replayed(fabric, topic, start=times[0].astimezone(), until=places[4] + 1000) == [1, 2, 3, 4, 5]
    assert await replayed(fabric, topic, start=0, until=datetime.now(UTC) + timedelta(days=1)) == [0, 1, 2, 3, 4, 5]


async def test_a_replay_of_nothing_ends(fabric: Fabric, word: str) -> None:
    event = await fabric.publish(f"{word}.a", 1)
    assert await replayed(fabric, f"{word}.b") == []
    assert await replayed(fabric, f"{word}.a", start=event.sequence + 1) == []
    assert await replayed(fabric, f"{word}.a", start=datetime.now(UTC) + timedelta(hours=1)) == []
    assert await replayed(fabric, f"{word}.a", until=0) == []
    assert await replayed(fabric, f"{word}.a", start=event.sequence, until=event.sequence - 1) == []
    assert await replayed(fabric, f"{word}.a", until=datetime.now(UTC) - timedelta(hours=1)) == []
    assert await replayed(fabric, f"{word}.a", filter="false") == []


async def test_a_filter_that_matches_nothing_near_the_end_does_not_keep_it_from_ending(
    fabric: Fabric, word: str
) -> None:
    await publish_all(fabric, f"{word}.a", range(2500))
    assert await replayed(fabric, f"{word}.a", filter="data < 3", transform="data * 2") == [0, 2, 4]


async def test_a_replay_ends_though_publishers_go_on(fabric: Fabric, other: Fabric, word: str) -> None:
    await publish_all(fabric, f"{word}.a", range(2000))
    running = asyncio.Event()

    async def go_on() -> None:
        while True:
            await asyncio.gather(*(fabric.publish(f"{word}.a", 0) for _ in range(16)))
            running.set()

    publishing = asyncio.create_task(go_on())
    try:
        await running.wait()
        found = await replayed(other, f"{word}.a")
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    assert found[:2000] == list(range(2000))


async def test_at_its_own_speed(fabric: Fabric, word: str) -> None:
    published = await apart(fabric, f"{word}.a", 4, 0.3)
    async with fabric.replay(f"{word}.a", until=published[2][0].sequence, original_speed=True) as events:
        came = [(event.data, time.monotonic()) async for event in events]
        ended = time.monotonic()
    assert [number for number, _ in came] == [0, 1, 2]
    gaps = [later - earlier for (_, earlier), (_, later) in pairwise(came)]
    assert all(0.25 < gap < 1.0 for gap in gaps), gaps
    assert ended - came[-1][1] < 0.25, "it waited for what comes after its end"


async def test_a_subscriber_begins_in_the_past_and_goes_on(fabric: Fabric, word: str) -> None:
    await publish_all(fabric, f"{word}.a", range(1500))
    async with fabric.subscribe(f"{word}.a", start="all") as events:
        assert await data(events, 1500) == list(range(1500))
        await fabric.publish(f"{word}.a", "new")
        assert await data(events, 1) == ["new"]


async def test_a_hundred_thousand_events_are_complete_and_in_order(fabric: Fabric, other: Fabric, word: str) -> None:
    await publish_all(fabric, f"{word}.a", range(100_000))
    async with asyncio.timeout(30), other.replay(f"{word}.a") as events:
        assert [event.data async for event in events] == list(range(100_000))


async def test_large_events_are_replayed_a_few_at_a_time(fabric: Fabric, word: str) -> None:
    large = "x" * 900_000
    for number in range(40):
        await fabric.publish(f"{word}.a", [number, large])
    async with fabric.replay(f"{word}.a") as events:
        assert [event.data[0] for event in await take(events, 40)] == list(range(40))


async def test_times_need_a_zone(fabric: Fabric) -> None:
    naive = datetime.now(UTC).replace(tzinfo=None)
    with pytest.raises(InvalidParams, match="zone"):
        fabric.replay("a", start=naive)
    with pytest.raises(InvalidParams, match="zone"):
        await replayed(fabric, "a", until=naive)
