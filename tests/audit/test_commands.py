"""`fabric audit`, and the same as tools of the agent `audit`.

Proves: SE-5
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cli.command import Done, started
from cli.inside import fabric_inside
from support.durable import KEEPING
from support.nats_server import PrivateNats, private_nats
from support.running import wait_until

from fabric.audit.entry import Entry
from fabric.audit.service import agent as audit
from fabric.audit.trail import Trail
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

WHO = ("ann", "bob", "[red]eve\x1b")


async def write(url: str, *entries: Entry) -> None:
    async with Fabric.connect(url) as fabric:
        trail = Trail(fabric.jetstream, "gateway", "security")
        for entry in entries:
            trail.note(entry)
        await trail.close()


def entry(who: str, **more: Any) -> Entry:
    return Entry(at=time.time(), outcome="denied", principal=who, agent="shop", tool="refund", rule="no", **more)


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats(KEEPING) as nats:
        asyncio.run(write(nats.url, *(entry(who, code=4030, count=2) for who in WHO)))
        yield nats


def run(nats: PrivateNats, *arguments: str) -> Done:
    return fabric_inside("audit", *arguments, env={"FABRIC_NATS_URL": nats.url})


def test_entries_are_listed_for_people_and_for_scripts(nats: PrivateNats) -> None:
    heading, *rows = run(nats, "list").out.splitlines()
    assert heading.split() == ["WHEN", "OUTCOME", "WHO", "DOOR", "WHAT", "RULE"]
    assert len(rows) == 3
    assert "denied x2 (4030)  ann" in rows[0]
    assert "shop/refund  no" in rows[0]
    assert "[red]eve\\x1b" in rows[2]
    told = run(nats, "list", "--json", "--principal", "bob", "--since", "1h", "--limit", "5").json
    assert [(each["principal"], each["outcome"], each["count"]) for each in told] == [("bob", "denied", 2)]
    assert run(nats, "list", "--outcome", "granted", "--json").json == []
    assert "FABRIC_AUDIT" in run(nats, "list", "--agent", "nobody").err


def test_an_export_is_lines_of_json(nats: PrivateNats) -> None:
    lines = [json.loads(line) for line in run(nats, "export").out.splitlines()]
    assert [each["principal"] for each in lines] == list(WHO)
    assert len(run(nats, "export", "--principal", "ann").out.splitlines()) == 1


def test_bad_questions_are_refused(nats: PrivateNats) -> None:
    run(nats, "list", "--since", "yesterday").refused(2, "'yesterday' is no time")
    assert run(nats, "list", "--outcome", "lost-it").code == 2
    fabric_inside("audit", "verify", env={}).refused(3, "no fabric is running here")


def test_entries_come_as_they_are_noted(nats: PrivateNats, tmp_path: Path) -> None:
    env = {"FABRIC_NATS_URL": nats.url}
    with started("audit", "tail", "--principal", "zoe", "--json", env=env, folder=tmp_path) as tail:
        wait_until(lambda: "Ctrl-C" in tail.said, what="the tail")

        def heard() -> bool:
            asyncio.run(write(nats.url, entry("zoe")))
            return '"principal": "zoe"' in tail.said

        wait_until(heard, what="an entry")


@asynccontextmanager
async def told_by_the_agent(url: str) -> AsyncGenerator[Any]:
    transport = await NatsTransport.connect(url)
    worker = Worker(transport, audit)
    await worker.start()
    async with Fabric.connect(url) as fabric:
        yield fabric.agent("audit")
    await worker.drain(0.0)
    await transport.close()


async def test_the_agent_tells_the_same_page_by_page(nats: PrivateNats) -> None:
    async with told_by_the_agent(nats.url) as agent:
        newest = await agent.call("list_entries", {"limit": 2, "until": time.time(), "agent": "shop"})
        assert len(newest) == 2
        first = await agent.call("list_entries", {"limit": 1, "after": "0.0"})
        assert [each["principal"] for each in first] == ["ann"]
        second = await agent.call("list_entries", {"limit": 1, "after": first[0]["id"]})
        assert [each["principal"] for each in second] == ["bob"]
        assert (await agent.call("verify"))["whole"] is True


def test_a_log_that_was_tampered_with_is_found_out(nats: PrivateNats) -> None:
    good = run(nats, "verify")
    assert (good.code, good.out.rstrip().endswith("all as it was written")) == (0, True)

    async def forge() -> None:
        async with Fabric.connect(nats.url) as fabric:
            await fabric.jetstream.store(subjects.audit("gateway-x"), Body({"entries": []}))

    asyncio.run(forge())
    bad = run(nats, "verify")
    assert bad.code == 1
    assert "it was not written by the fabric" in bad.out
    told = run(nats, "verify", "--json")
    assert (told.code, told.json["whole"], len(told.json["findings"])) == (1, False, 1)
