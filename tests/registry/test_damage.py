"""What others wrote into Redis does no lasting harm: the catalogue is made anew, the rest is read through.

Proves: CM-1, CM-2, RT-8 (whatever becomes of the cache).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric.limits.spending import Spent
from fabric.registry import keys
from fabric.registry.service import Catalogue, build
from fabric.registry.store import Store, StoreDamaged
from fabric_sdk import Agent, Fabric
from fabric_sdk.contracts.description import Beat
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker
from registry.conftest import until
from registry.servers import Server

pytestmark = pytest.mark.anyio

Harm = Callable[[Any], object]
"""Writes something into Redis, by a client of it."""
HARMS: dict[str, Harm] = {
    "no number": lambda redis: redis.set(keys.REVISION, "abc"),
    "no revision yet": lambda redis: redis.set(keys.REVISION, "0"),
    "another type of revision": lambda redis: _as_list(redis, keys.REVISION),
    "another type of agents": lambda redis: _as_list(redis, keys.AGENTS),
    "another type of digests": lambda redis: _as_list(redis, keys.DIGESTS),
    "another type of instances": lambda redis: _as_list(redis, keys.instances("shop")),
    "a digest that is no text": lambda redis: redis.hset(keys.DIGESTS, "shop", b"\xff"),
    "an agent that is no text": lambda redis: redis.hset(keys.DIGESTS, b"\xff", "d"),
    "an instance that is no text": lambda redis: redis.zadd(keys.instances("shop"), {b"\xff": 1e15}),
}


def _as_list(redis: Any, key: str) -> None:
    redis.delete(key)
    redis.rpush(key, "x")


def beat() -> Beat:
    return Beat(agent="shop", instance="s1", version="1", digest="d", host="h", pid=1, started=1.0, capacity=1)


@pytest.fixture
async def kept(any_redis: Server) -> AsyncGenerator[Store]:
    """A store with one agent."""
    with any_redis.client() as client:
        client.flushall()
    kept = Store(any_redis.url)
    await kept.beat([beat()], everybody=True)
    yield kept
    await kept.close()


LEASES: dict[str, Harm] = {
    "a lease that is no JSON": lambda redis: redis.set(keys.lease("shop", "s1"), "{"),
    "a lease that is no heartbeat": lambda redis: redis.set(keys.lease("shop", "s1"), "5"),
    "another type of lease": lambda redis: _as_list(redis, keys.lease("shop", "s1")),
}


@pytest.mark.parametrize("harm", [*HARMS, *LEASES])
async def test_a_damaged_catalogue_is_known_for_one_and_can_be_forgotten(
    kept: Store, any_redis: Server, harm: str
) -> None:
    with any_redis.client() as client:
        (HARMS | LEASES)[harm](client)

    async def look() -> bool:
        """Whether reading or writing it works and shows what it should."""
        try:
            written, (revision, agents) = await kept.beat([beat()]), await kept.agents()
        except StoreDamaged:
            return False
        return written is not None and revision > 0 and [name for name, _, _ in agents] == ["shop"]

    if not await look():
        await kept.forget()
        assert await kept.beat([beat()]) is None, "it is as good as new"
        await kept.beat([beat()], everybody=True)
    assert await look()


async def test_what_is_no_number_counts_for_nothing_in_limits(kept: Store, any_redis: Server) -> None:
    spent = Spent(bucket="r:b", age=0.0, seconds=5.0, day=1, uses=2)
    with any_redis.client() as client:
        client.set(keys.ahead("r:b"), "abc")
        _as_list(client, keys.used("r:b", 1))
    (standing,) = await kept.spend("1" * 32, 1, [spent])
    assert (round(standing.ahead), standing.used) == (5, 2)
    (standing,) = await kept.spend("1" * 32, 2, [spent])
    assert (round(standing.ahead), standing.used) == (10, 4)


async def test_a_description_that_is_none_is_asked_for_again(kept: Store, any_redis: Server) -> None:
    key = keys.description("shop", "d")
    harms: list[Harm] = [lambda redis: redis.set(key, b"\xff"), lambda redis: _as_list(redis, key)]
    for harm in harms:
        with any_redis.client() as client:
            harm(client)
        assert await kept.description("shop", "d") is None
        assert (written := await kept.beat([beat()]))
        assert written.missing == {("shop", "d")}


# the registry as an agent


@asynccontextmanager
async def asked(redis_server: Server) -> AsyncGenerator[Callable[[], Awaitable[Catalogue]]]:
    """A registry and one more agent; the function asks who is there."""
    with redis_server.client() as client:
        client.flushall()
    bus = MemoryTransport()
    workers = [Worker(bus, build(redis_server.url)), Worker(bus, Agent("shop"))]
    for worker in workers:
        await worker.start()
    try:
        async with Fabric.over(bus) as fabric:

            async def catalogue() -> Catalogue:
                return Catalogue.model_validate(await fabric.agent("registry").call("catalogue", timeout=15))

            yield catalogue
    finally:
        for worker in workers:
            await worker.drain(0.5)
        await bus.close()


def _whole(found: Catalogue) -> bool:
    """Whether it comes from Redis, and has all."""
    return found.revision > 0 and {each.name for each in found.agents} == {"registry", "shop"}


async def test_the_registry_makes_a_damaged_catalogue_anew_and_says_so_once(
    redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with asked(redis_server) as catalogue:
        await until(catalogue, _whole)
        for name in ("no number", "another type of agents", "a digest that is no text"):
            with redis_server.client() as client:
                HARMS[name](client)
            names = {each.name for each in (await catalogue()).agents}
            assert "shop" in names, f"{name}: whoever asks meanwhile is answered"
            await until(catalogue, _whole)
    assert sum("made anew" in each.message for each in caplog.records) == 1


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js" }\n') as server:
        yield server


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"5", b"{}", b'{"version": VERSION}', None])
async def test_a_conversation_is_read_through_what_is_none(
    nats: PrivateNats, redis_server: Server, garbage: bytes | None
) -> None:
    transport = await NatsTransport.connect(nats.url)
    worker = Worker(transport, build(redis_server.url))
    await worker.start()
    try:
        async with Fabric.connect(nats.url) as fabric:
            conversation = fabric.conversation("c-1")
            version = await conversation.snapshot("s")
            key = keys.conversation("c-1")
            with redis_server.client() as client:
                if garbage is None:
                    _as_list(client, key)
                else:
                    client.set(key, garbage.replace(b"VERSION", str(version).encode()))
            wanted: dict[str, Any] = {"snapshot": "s", "entries": [], "version": version}
            for _ in range(2):
                assert await fabric.agent("registry").call("conversation", {"id": "c-1"}, timeout=10) == wanted
    finally:
        await worker.drain(0.0)
        await transport.close()
