"""A server, and the agent `access` on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from support.fresh import fabric, nats
from support.nats_server import PrivateNats

from fabric.access.service import agent
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

__all__ = ["fabric", "nats"]


@pytest.fixture
async def served(nats: PrivateNats) -> AsyncGenerator[Worker]:
    transport = await NatsTransport.connect(nats.url)
    worker = Worker(transport, agent)
    await worker.start()
    yield worker
    await worker.drain(0.0)
    await transport.close()
