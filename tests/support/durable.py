"""Fixtures of what is durable: a server that keeps, which a test may break, clients of it, and workers.

A `conftest.py` takes by name those that its tests need.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack

import pytest

from fabric_sdk import Agent, Fabric
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Limits, Worker
from support.nats_server import PrivateNats, private_nats

KEEPING = 'jetstream { store_dir: "js", sync_interval: always }\n'

Serve = Callable[..., Awaitable[Worker]]
"""Serves an agent in this process, at the server of the test or at `url`, with so many `tasks` at once."""


@pytest.fixture(scope="session")
def keeping() -> Generator[PrivateNats]:
    """A server for all tests that break nothing; each names its agents and topics anew."""
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
def breakable() -> Generator[PrivateNats]:
    """A server for one test, which may do to it what it likes, or look at all that is on it."""
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest) -> PrivateNats:
    """The server of this test: `breakable` if it asks for that one."""
    return request.getfixturevalue("breakable" if "breakable" in request.fixturenames else "keeping")


@pytest.fixture
async def fabric(server: PrivateNats) -> AsyncGenerator[Fabric]:
    """A client."""
    async with Fabric.connect(server.url) as fabric:
        yield fabric


@pytest.fixture
async def serve(server: PrivateNats) -> AsyncGenerator[Serve]:
    async with AsyncExitStack() as stack:

        async def serve(agent: Agent, url: str = "", *, tasks: int = 64) -> Worker:
            transport = await NatsTransport.connect(url or server.url)
            stack.push_async_callback(transport.close)
            worker = Worker(transport, agent, limits=Limits(tasks=tasks))
            await worker.start()
            stack.push_async_callback(worker.drain, 0.0)
            return worker

        yield serve
