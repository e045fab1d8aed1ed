"""Conversations read through the registry: cached in Redis, never older than what JetStream keeps, there without Redis.

Proves: RT-8 (the same after a restart of everything; losing the cache loses nothing).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import orjson
import pytest
from support.nats_server import PrivateNats, private_nats

from fabric.registry import keys
from fabric.registry.service import build
from fabric_sdk import Fabric
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker
from registry.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as server:
        yield server


@pytest.fixture
async def fabric(nats: PrivateNats, redis_server: Server) -> AsyncGenerator[Fabric]:
    transport = await NatsTransport.connect(nats.url)
    worker = Worker(transport, build(redis_server.url))
    await worker.start()
    try:
        async with Fabric.connect(nats.url) as fabric:
            yield fabric
    finally:
        await worker.drain(0.0)
        await transport.close()


async def read(fabric: Fabric, conversation_id: str) -> Any:
    return await fabric.agent("registry").call("conversation", {"id": conversation_id}, timeout=10)


async def test_it_is_read_once_and_then_from_redis(fabric: Fabric, redis_server: Server) -> None:
    conversation = fabric.conversation("cached")
    await conversation.snapshot({"sum": 1})
    version = await conversation.append("said")
    wanted = {"snapshot": {"sum": 1}, "entries": ["said"], "version": version}
    assert await read(fabric, "cached") == wanted
    with redis_server.client() as client:
        assert orjson.loads(client.get(keys.conversation("cached"))) == wanted
        marked = {**wanted, "entries": ["from redis"]}
        client.set(keys.conversation("cached"), orjson.dumps(marked))
    assert await read(fabric, "cached") == marked


async def test_what_changed_is_read_anew(fabric: Fabric) -> None:
    conversation = fabric.conversation("changing")
    for said in range(3):
        await conversation.append(said)
        assert (await read(fabric, "changing"))["entries"] == list(range(said + 1))
    await conversation.forget()
    assert (await read(fabric, "changing"))["entries"] == []


async def test_an_empty_redis_or_none_changes_nothing(fabric: Fabric, redis_server: Server) -> None:
    await fabric.conversation("lasting").append("said")
    before = await read(fabric, "lasting")
    with redis_server.client() as client:
        client.flushall()
    assert await read(fabric, "lasting") == before
    redis_server.stop()
    try:
        assert await read(fabric, "lasting") == before
    finally:
        redis_server.start()
    assert await read(fabric, "lasting") == before


async def test_a_restart_of_the_broker_changes_nothing(fabric: Fabric, nats: PrivateNats) -> None:
    await fabric.conversation("kept").append("said")
    before = await read(fabric, "kept")
    nats.kill()
    nats.start()
    assert await read(fabric, "kept") == before
    assert before["entries"] == ["said"]


async def test_what_expired_is_not_shown_from_the_cache(fabric: Fabric) -> None:
    conversation = fabric.conversation("short", keep=0.3)
    await conversation.append("said")
    while (shown := await read(fabric, "short"))["entries"]:
        assert shown["entries"] == ["said"]
    assert shown == {"snapshot": None, "entries": [], "version": 0}
