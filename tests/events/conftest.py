"""One server with JetStream for all tests here that break nothing; each has topics of its own on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric_sdk import Fabric

JETSTREAM = 'jetstream { store_dir: "js", sync_interval: always }\n'


@pytest.fixture(scope="session")
def durable_nats() -> Generator[PrivateNats]:
    with private_nats(JETSTREAM) as server:
        yield server


@pytest.fixture
def own_nats() -> Generator[PrivateNats]:
    """A server for one test, which may kill it or look at all that is on it."""
    with private_nats(JETSTREAM) as server:
        yield server


@pytest.fixture
def word() -> str:
    """The first word of a test's own topics, and the name of its own group."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
async def exit_stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as exit_stack:
        yield exit_stack


@pytest.fixture
async def fabric(durable_nats: PrivateNats, exit_stack: AsyncExitStack) -> Fabric:
    return await exit_stack.enter_async_context(Fabric.connect(durable_nats.url))


@pytest.fixture
async def other(durable_nats: PrivateNats, exit_stack: AsyncExitStack) -> Fabric:
    """Another client, on a connection of its own."""
    return await exit_stack.enter_async_context(Fabric.connect(durable_nats.url))
