"""A server that keeps, a client of it, and workers: in this process, or in others that may die."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric_sdk import Agent
from fabric_sdk.client import Fabric
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Limits, Worker

KEEPING = 'jetstream { store_dir: "js", sync_interval: always }\n'

Serve = Callable[..., Awaitable[Worker]]
"""Serves an agent, at the server of the test or at `url`, with so many `tasks` at once."""


@pytest.fixture(scope="session")
def keeping() -> Generator[PrivateNats]:
    """A server for all tests that break nothing; each names its agents anew."""
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
def breakable() -> Generator[PrivateNats]:
    """A server for one test, which may do to it what it likes."""
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest) -> PrivateNats:
    """The server of this test: `breakable` if it asks for that one."""
    return request.getfixturevalue("breakable" if "breakable" in request.fixturenames else "keeping")


@pytest.fixture
async def fabric(server: PrivateNats) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(server.url) as fabric:
        yield fabric


@pytest.fixture
async def serve(server: PrivateNats) -> AsyncGenerator[Serve]:
    async with AsyncExitStack() as stack:

        async def serve(agent: Agent, *, tasks: int = 64) -> Worker:
            transport = await NatsTransport.connect(server.url)
            stack.push_async_callback(transport.close)
            worker = Worker(transport, agent, limits=Limits(tasks=tasks))
            await worker.start()
            stack.push_async_callback(worker.drain, 0.0)
            return worker

        yield serve


@pytest.fixture
def agent() -> Agent:
    """An agent that no other test knows."""
    return Agent(f"a{uuid4().hex[:12]}")
