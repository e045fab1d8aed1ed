"""Fixtures of a server that knows nothing yet, anew for each test, and a client of it.

A `conftest.py` takes by name those that its tests need.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest

from fabric_sdk import Fabric
from support.durable import KEEPING
from support.nats_server import PrivateNats, private_nats


@pytest.fixture
def nats() -> Generator[PrivateNats]:
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
async def fabric(nats: PrivateNats) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(nats.url) as fabric:
        yield fabric
