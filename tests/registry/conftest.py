"""Fixtures of the registry's tests: Redis in each of the versions that are promised to work.

Redis 6.2 and Valkey 9 are the two ends of what is promised; both come with the test requirements and are never
skipped. Debian's Redis 7 lies between the two: `make debian` unpacks it, and where Debian's packages cannot be had and
the machine has no `redis-server` of its own, it is skipped with that reason. FABRIC_REQUIRE_REDIS=1 makes its absence a
failure.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

import pytest

from registry.servers import Server, redis_6, redis_of_debian, running, valkey

T = TypeVar("T")


@pytest.fixture(scope="module", params=["valkey", "redis-6.2", "redis-of-debian"])
def any_redis(request: pytest.FixtureRequest) -> Generator[Server]:
    """A server of each kind in turn, shared by the tests of a module: each begins by emptying it."""
    program = {"valkey": valkey, "redis-6.2": redis_6, "redis-of-debian": redis_of_debian}[request.param]()
    if program is None:
        missing = "neither Debian's redis-server (`make debian` unpacks it) nor one of this machine's own is here"
        assert not os.environ.get("FABRIC_REQUIRE_REDIS"), missing
        pytest.skip(missing)
    with running(program) as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Generator[Server]:
    """Redis 6.2, for the tests that need one server only."""
    with running(redis_6()) as server:
        yield server


async def until(ask: Callable[[], Awaitable[T]], wanted: Callable[[T], object], *, seconds: float = 10.0) -> T:
    """Ask until the answer is as wanted, and return it."""
    answer: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while not wanted(answer := await ask()):  # noqa: ASYNC110 - what is asked for tells nobody when it changes
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not as wanted within {seconds} s: {answer}") from None
    return answer
