"""One server with JetStream for all tests here that break nothing; each has topics of its own on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest
from support.durable import breakable, fabric, keeping, server
from support.nats_server import PrivateNats

from fabric_sdk import Fabric

__all__ = ["breakable", "fabric", "keeping", "server"]


@pytest.fixture
def word() -> str:
    """The first word of a test's own topics, and the name of its own group."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
async def other(server: PrivateNats) -> AsyncGenerator[Fabric]:
    """Another client, on a connection of its own."""
    async with Fabric.connect(server.url) as other:
        yield other
