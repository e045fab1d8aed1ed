"""A stream that somebody deletes while the fabric runs is there again as soon as it is needed. Proves: CM-2, MB-2."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.nats_server import PrivateNats
from tasks.conftest import Serve

from fabric_sdk import Agent
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors, streams, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import CATALOGUE, EVENTS, OBJECTS, Stream, stream_of
from fabric_sdk.jetstream import Claims, Reader, api


async def delete(fabric: Fabric, *streams: Stream) -> None:
    """Delete these, which this client knows to be there."""
    for stream in streams:
        await fabric.jetstream.ensure(stream)
        await fabric.jetstream.request(f"STREAM.DELETE.{stream.name}")


async def test_what_is_stored_is_stored_in_one_made_anew(breakable: PrivateNats, fabric: Fabric) -> None:
    await delete(fabric, *CATALOGUE)
    await fabric.publish("a.b", 1)
    assert await fabric.jetstream.end_of(EVENTS) == 1
    starts = [fabric.agent("nobody").plan("work", {"n": n}, key=f"{n}") for n in range(3)]
    assert [task.joined for task in await fabric.start_all(starts)] == [False] * 3
    later = await fabric.agent("nobody").start("work", delay=60)
    assert (await later.cancel()).state == "cancelled"
    assert (await fabric.agent("nobody").task(starts[0].id).status()).state == "queued"
    claims = Claims(fabric.jetstream)
    kept = await claims.keep(b"x" * 1_000_000, 60)
    assert len((await claims.redeem(kept)).encoded()) == 1_000_000


async def test_a_worker_goes_on_with_what_is_started_since(
    breakable: PrivateNats, fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    @agent.tool
    async def work(n: int) -> int:
        return n

    await serve(agent)
    client = fabric.agent(agent.name)
    assert await (await client.start("work", {"n": 1})).result(timeout=10) == 1
    await delete(fabric, *CATALOGUE)
    tasks = await asyncio.gather(*(client.start("work", {"n": n}) for n in range(20)))
    assert [await task.result(timeout=20) for task in tasks] == list(range(20))


async def test_a_stream_is_read_though_it_was_deleted(breakable: PrivateNats, fabric: Fabric) -> None:
    await delete(fabric, EVENTS)
    reader = Reader(fabric.jetstream, EVENTS, (subjects.event("a.>"),), {"deliver_policy": "all"})
    await reader.open()
    await fabric.publish("a.b", 1)
    async with asyncio.timeout(10):
        assert (await anext(reader)).message.subject == subjects.event("a.b")
    await reader.close()


async def test_nothing_to_clear_away_is_no_mistake(breakable: PrivateNats, fabric: Fabric) -> None:
    await delete(fabric, OBJECTS)
    await Claims(fabric.jetstream).drop(f"{'0' * 32}.1.1")


async def test_one_that_does_not_take_its_messages_is_named(
    breakable: PrivateNats, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.2)
    odd: dict[str, Any] = EVENTS.config(1) | {"subjects": ["elsewhere"]}
    await fabric.jetstream.request(f"STREAM.CREATE.{EVENTS.name}", odd)
    with pytest.raises(errors.TransportUnavailable, match=r"the stream FAB_EVENTS does not take .* fab\.event\.a\.b"):
        await fabric.jetstream.store(subjects.event("a.b"), Body(1), patience=0.2)
    with pytest.raises(errors.TransportUnavailable, match="FAB_EVENTS"):
        await fabric.jetstream.store_all([Message(subjects.event("a.b"), Body(1))])
    with pytest.raises(errors.TransportUnavailable, match="no stream takes what is published on foreign"):
        await fabric.jetstream.store("foreign.event", Body(1), patience=0.2)


@pytest.mark.parametrize("stream", CATALOGUE, ids=lambda stream: stream.name)
def test_each_subject_leads_to_its_stream(stream: Stream) -> None:
    assert stream_of(stream.subjects[0].replace("*", "x").replace(">", "x.y")) is stream
    assert stream_of(f"foreign.{stream.subjects[0]}") is None


def test_every_stream_is_in_the_catalogue() -> None:
    assert [each for each in vars(streams).values() if isinstance(each, Stream)] == list(CATALOGUE)
