"""A server for the tables of each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric_sdk import Fabric


@pytest.fixture
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as server:
        yield server


@pytest.fixture
async def fabric(nats: PrivateNats) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(nats.url) as fabric:
        yield fabric
