"""A server, and the agent `access` on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric.access.service import agent
from fabric_sdk import Fabric
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker


@pytest.fixture
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as server:
        yield server


@pytest.fixture
async def fabric(nats: PrivateNats) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(nats.url) as fabric:
        yield fabric


@pytest.fixture
async def served(nats: PrivateNats) -> AsyncGenerator[Worker]:
    transport = await NatsTransport.connect(nats.url)
    worker = Worker(transport, agent)
    await worker.start()
    yield worker
    await worker.drain(0.0)
    await transport.close()
