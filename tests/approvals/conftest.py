"""A fabric for the tests of each module, in which every test has people of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
from support.durable import KEEPING
from support.nats_server import PrivateNats, private_nats

from approvals.fabric_of_shops import Shops, shops


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture(scope="module")
async def all_shops(nats: PrivateNats, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shops]:
    async with shops(nats.url, tmp_path_factory.mktemp("policy")) as found:
        yield found


@pytest.fixture
def there(all_shops: Shops) -> Shops:
    """The fabric, in which nothing was done yet."""
    all_shops.done.clear()
    return all_shops
