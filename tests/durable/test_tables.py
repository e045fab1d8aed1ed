"""Tables that every process follows, on a real server. Proves: GW-2, SE-1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from support.nats_server import PrivateNats, private_nats
from support.waiting import eventually, until

from fabric_sdk import Fabric
from fabric_sdk.cancelling import end
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.jetstream import Table, WrongSequence


@asynccontextmanager
async def following(fabric: Fabric, kind: str) -> AsyncGenerator[tuple[Table, list[str]]]:
    """A table that has read all there was, and the keys that changed."""
    changed: list[str] = []
    table = Table(fabric.jetstream, ACCESS, subjects.access(kind), changed.append)
    running = asyncio.create_task(table.run())
    try:
        await asyncio.wait_for(table.ready.wait(), 10)
        yield table, changed
    finally:
        await end([running])


async def known(table: Table, expected: dict[str, Any]) -> None:
    await eventually(lambda: {key: row.value for key, row in table} == expected, what=f"{expected}")


async def test_what_one_process_writes_all_others_see() -> None:
    with private_nats('jetstream { store_dir: "js" }\n') as server:
        async with (
            Fabric.connect(server.url) as here,
            Fabric.connect(server.url) as there,
            following(here, "key") as (mine, _),
            following(there, "key") as (theirs, changed),
        ):
            await mine.put("a", {"n": 1})
            await mine.put("b", {"n": 2})
            await known(theirs, {"a": {"n": 1}, "b": {"n": 2}})
            await theirs.put("a", {"n": 3})
            await known(mine, {"a": {"n": 3}, "b": {"n": 2}})
            await mine.remove("a")
            await known(theirs, {"b": {"n": 2}})
            assert changed == ["a", "b", "a", "a"]
            async with following(there, "key") as (late, _):
                await known(late, {"b": {"n": 2}})


async def test_of_two_that_write_one_row_one_is_told(keeping_jetstream: PrivateNats) -> None:
    async with Fabric.connect(keeping_jetstream.url) as fabric, following(fabric, uuid4().hex) as (table, _):
        first = await table.put("a", 1, expected=0)
        with pytest.raises(WrongSequence):
            await table.put("a", 2, expected=0)
        await table.put("a", 3, expected=first)
        with pytest.raises(WrongSequence):
            await table.remove("a", expected=first)
        await known(table, {"a": 3})


async def test_rows_go_by_themselves_and_the_rest_is_followed_through_a_crash() -> None:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as server:
        async with Fabric.connect(server.url) as fabric, following(fabric, "key") as (table, _):
            await table.put("short", 1, seconds=1)
            await table.put("long", 2)
            await known(table, {"short": 1, "long": 2})
            server.kill()
            server.start()
            await table.put("after", 3)
            await known(table, {"short": 1, "long": 2, "after": 3})

            short = subjects.access("key") + "short"
            await until(lambda: fabric.jetstream.last(ACCESS, short), lambda found: found is None, what="the short row")
            async with following(fabric, "key") as (late, _):
                await known(late, {"long": 2, "after": 3})


@pytest.fixture
def keeping_jetstream() -> Any:
    with private_nats('jetstream { store_dir: "js" }\n') as server:
        yield server
