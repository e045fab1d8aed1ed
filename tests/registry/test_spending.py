"""What gateways used of their limits, counted in Redis 6.2, Redis 7 and Valkey 9: once, for all, for as long as needed.

Proves: GW-8 (limits are counted for all gateways together).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from limits.ledger import Ledger

from fabric.limits.spending import LONGEST, MOST_TOLD, Spent, Standing
from fabric.registry import keys
from fabric.registry.service import build
from fabric.registry.store import Store, StoreUnavailable
from fabric_sdk import Fabric, FabricError
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from registry.servers import Server, running, valkey

ONE, OTHER = "1" * 32, "2" * 32
TODAY = 20_000


@pytest.fixture
async def kept(any_redis: Server) -> AsyncGenerator[Store]:
    """A store in an empty Redis."""
    with any_redis.client() as client:
        client.flushall()
    kept = Store(any_redis.url)
    yield kept
    await kept.close()


def spent(bucket: str = "r:b", seconds: float = 0.0, **more: Any) -> Spent:
    given: dict[str, Any] = {"age": 0.0, "seconds": seconds, **more}
    return Spent(bucket=bucket, **given)


async def test_redis_counts_as_the_ledger_of_the_simulation_does(kept: Store) -> None:
    ledger = Ledger()
    reports: list[tuple[str, int, list[Spent]]] = [
        (ONE, 1, [spent(seconds=5.0, day=TODAY, uses=5)]),
        (OTHER, 1, [spent(seconds=2.5, day=TODAY, uses=2), spent("r:c", 0.5, age=0.4)]),
        (ONE, 1, [spent(seconds=5.0, day=TODAY, uses=5)]),
        (ONE, 3, [spent("r:c", 0.5, age=1.0), spent("d:e", day=TODAY, uses=1, known=1000)]),
        (ONE, 2, [spent("d:e", day=TODAY, uses=7)]),
        (OTHER, 2, [spent("d:e", day=TODAY, uses=1, known=4), spent("d:e", day=TODAY + 1, uses=1)]),
        (OTHER, 3, [spent(seconds=0.0, day=TODAY, uses=0), spent("r:unknown", day=TODAY)]),
        (OTHER, 4, []),
    ]
    for spender, number, told in reports:
        wanted = ledger.spend(spender, number, told, time.time())
        answer = await kept.spend(spender, number, told)
        assert [each.used for each in answer] == [each.used for each in wanted]
        for mine, its in zip(wanted, answer, strict=True):
            assert its.ahead == pytest.approx(mine.ahead, abs=0.5)


async def test_a_report_that_comes_twice_is_counted_once(kept: Store) -> None:
    told = [spent(seconds=100.0, day=TODAY, uses=3)]
    (first,) = await kept.spend(ONE, 1, told)
    (again,) = await kept.spend(ONE, 1, told)
    assert (first.used, again.used) == (3, 3)
    assert 99 < again.ahead <= first.ahead <= 100
    (of_another,) = await kept.spend(OTHER, 1, told)
    assert of_another.used == 6
    assert 198 < of_another.ahead <= 200


async def test_a_late_use_counts_where_it_was(kept: Store) -> None:
    (late,) = await kept.spend(ONE, 1, [spent(seconds=0.2, age=0.8)])
    assert -0.8 < late.ahead <= -0.6 + 0.001


async def test_everything_goes_by_itself(kept: Store, any_redis: Server) -> None:
    await kept.spend(ONE, 1, [spent(seconds=30.0, day=TODAY, uses=1)])
    with any_redis.client() as client:
        assert 29_000 < client.pttl(keys.ahead("r:b")) <= (30 + LONGEST) * 1000
        assert 86_400 < client.ttl(keys.used("r:b", TODAY)) <= 2 * 86_400
        assert 0 < client.ttl(keys.told(ONE)) <= 86_400
        there = {key.decode() for key in client.scan_iter()}
    assert there == {keys.ahead("r:b"), keys.used("r:b", TODAY), keys.told(ONE)}


async def test_numbers_of_any_size_are_kept_exactly(kept: Store) -> None:
    most = (1 << 53) - 2
    (answer,) = await kept.spend(ONE, (1 << 53) - 1, [spent(seconds=9e12, day=TODAY, uses=1, known=most)])
    assert answer.used == most + 1
    assert answer.ahead == pytest.approx(9e12, rel=1e-9)


async def test_the_largest_report_is_counted_at_once(kept: Store) -> None:
    told = [spent(f"r:{number}", 1.0, day=TODAY, uses=number) for number in range(MOST_TOLD)]
    assert [each.used for each in await kept.spend(ONE, 1, told)] == list(range(MOST_TOLD))


@pytest.fixture
async def spend(redis_server: Server) -> AsyncGenerator[Callable[..., Awaitable[list[Standing]]]]:
    """Asks a registry as a gateway does."""
    bus = MemoryTransport()
    worker = Worker(bus, build(redis_server.url))
    await worker.start()
    async with Fabric.over(bus) as fabric:

        async def ask(**arguments: Any) -> list[Standing]:
            answer = await fabric.agent("registry").call("spend", arguments, timeout=10)
            return [Standing.model_validate(each) for each in answer]

        yield ask
    await worker.drain(0.0)
    await bus.close()


async def test_the_registry_counts_for_all_who_ask_it(spend: Callable[..., Awaitable[list[Standing]]]) -> None:
    bucket = f"r:{uuid4().hex}"
    told = [spent(bucket, day=TODAY, uses=2).model_dump()]
    assert [each.used for each in await spend(spender=uuid4().hex, number=1, spent=told)] == [2]
    assert [each.used for each in await spend(spender=uuid4().hex, number=1, spent=told)] == [4]


NONSENSE: dict[str, dict[str, Any]] = {
    "no-spender": {"spender": ""},
    "spender-with-a-star": {"spender": "*" * 32},
    "number-negative": {"number": -1},
    "number-beyond-a-double": {"number": 1 << 60},
    "not-a-list": {"spent": {}},
    "empty-bucket": {"bucket": ""},
    "bucket-with-a-newline": {"bucket": "r:b\n"},
    "bucket-without-end": {"bucket": "b" * 200},
    "older-than-late": {"age": LONGEST + 0.1},
    "seconds-negative": {"seconds": -1.0},
    "seconds-without-end": {"seconds": 1e300},
    "seconds-not-a-number": {"seconds": "soon"},
    "uses-negative": {"uses": -1},
    "known-beyond-a-double": {"known": 1 << 60},
    "day-not-a-day": {"day": "monday"},
}


@pytest.mark.parametrize("wrong", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_is_refused_and_counted_nowhere(
    spend: Callable[..., Awaitable[list[Standing]]], wrong: dict[str, Any], redis_server: Server
) -> None:
    one = spent("r:nonsense", 1.0, day=TODAY, uses=1).model_dump()
    outer = {"spender": ONE, "number": 1} | {"spent": [one | {k: v for k, v in wrong.items() if k in one}]}
    with pytest.raises(FabricError):
        await spend(**outer | {k: v for k, v in wrong.items() if k in outer})
    with redis_server.client() as client:
        assert client.get(keys.ahead("r:nonsense")) is None


async def test_without_redis_it_says_so() -> None:
    with running(valkey()) as server:
        kept = Store(server.url)
        server.stop()
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await kept.spend(ONE, 1, [spent(seconds=1.0)])
        await kept.close()
