"""A reader where the broker is slow, and where its client is closed. Proves: EV-1, CM-2."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from support.nats_server import PrivateNats

from fabric_sdk import Fabric, TransportClosed
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.streams import EVENTS
from fabric_sdk.jetstream import Reader, pull, reading

pytestmark = pytest.mark.anyio


def reader_of(fabric: Fabric, word: str) -> Reader:
    return Reader(fabric.jetstream, EVENTS, (subjects.event(f"{word}.>"),), {"deliver_policy": "all"})


async def test_one_begins_though_the_broker_takes_longer_than_usual(
    fabric: Fabric, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MADE_SECONDS", 0.25)
    monkeypatch.setattr(reading, "PATIENCE", 3.0)
    publish, late = fabric.transport.publish, list[asyncio.Task[None]]()

    async def publish_late(message: Message) -> None:
        async def wait() -> None:
            await asyncio.sleep(0.4)  # the slowness itself: longer than a first attempt waits, shorter than a second
            await publish(message)

        if ".CONSUMER.CREATE." in message.subject:
            late.append(asyncio.create_task(wait()))
        else:
            await publish(message)

    await fabric.publish(f"{word}.a", 1)
    monkeypatch.setattr(fabric.transport, "publish", publish_late)
    reader = reader_of(fabric, word)
    assert await reader.open() == 1
    assert (await anext(reader)).message.subject == subjects.event(f"{word}.a")
    await reader.close()
    await asyncio.gather(*late)


@pytest.mark.parametrize("whole", [True, False], ids=["with its connection", "alone"])
async def test_one_whose_client_is_closed_ends(
    server: PrivateNats, fabric: Fabric, word: str, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr(pull, "_BEAT_SECONDS", 0.2)
    async with AsyncExitStack() as open_now:
        where = Fabric.connect(server.url) if whole else Fabric.over(fabric.transport)
        closed = await open_now.enter_async_context(where)
        reader = reader_of(closed, word)
        await reader.open()
    with pytest.raises(TransportClosed):
        await asyncio.wait_for(anext(reader), 8)
    await reader.close()
