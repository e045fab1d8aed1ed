"""The drill: a fabric with all that it can hold is saved while it runs, wiped, and restored: the same, by hash.

Proves: MB-3 (it comes back from a backup), OP-6 (the backup's runbook, executed), CM-1 (Redis holds nothing that
does not come back by itself)
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from cli.command import Done, fabric, up
from cli.inside import fabric_inside
from support.waiting import until

from backup.digest import Digest, digest
from fabric.node import run_broker
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.streams import AUDIT, LATER
from fabric_sdk.handle import Task

pytestmark = pytest.mark.timeout(120)

SHOP = Path(__file__).with_name("shop.py")
MANY = 20
"""Of everything that waits."""


async def fill(client: Fabric) -> dict[str, Task]:
    """Do, and leave undone, some of everything."""
    shop, closed = client.agent("shop"), client.agent("closed")
    done = await shop.start("order", {"item": "done"}, key="done")
    await done.result(timeout=20)
    dead = await shop.start("spoil", {"item": "milk"})
    await until(dead.status, lambda record: record.state == "dead")
    waiting = {f"queued-{number}": await closed.start("order", {"item": f"{number}"}) for number in range(MANY)}
    later = await closed.start("order", {"item": "later"}, delay=3600.0)
    soon = await closed.start("order", {"item": "soon"}, delay=0.2)
    large = await closed.start("order", {"item": "x" * 9_000_000})
    await closed.schedule("nightly", "@daily", "order", {"item": "nightly"})
    await client.schemas.register("tea.sold", {"type": "object", "properties": {"cups": {"type": "integer"}}})
    await client.publish("tea.sold", {"cups": 1})
    async with client.subscribe("tea.*", group="billing", start="all") as events:
        await (await anext(events)).ack()
    await client.publish("tea.sold", {"cups": 2})
    access = client.agent("access")
    await access.call("create_token", {"name": "ci", "roles": ["dev"]})
    await access.call("mount", {"agent": "shop", "prefix": "till", "target": "closed"})
    due = partial(client.jetstream.last, LATER, subjects.later("closed", "due", soon.id))
    await until(due, lambda message: message is not None, what="a task that is due")
    await client.conversation("customer-7").append({"role": "user", "text": "Have you got tea?"})
    return {"done": done, "dead": dead, "later": later, "soon": soon, "large": large, **waiting}


async def inside(*arguments: str | Path) -> Done:
    """`fabric` in a thread, whose loop is its own: a process would take a second to start."""
    return await asyncio.to_thread(partial(fabric_inside, env={}), *arguments)


async def of(url: str) -> Digest:
    async with Fabric.connect(url) as client:
        return await digest(client.jetstream)


async def test_a_fabric_is_saved_wiped_and_restored(tmp_path: Path) -> None:
    book, kept, backup = tmp_path / "book", tmp_path / "kept", tmp_path / "monday.backup"
    env = {"SHOP_BOOK": str(book)}
    book.touch()
    with up(f"{SHOP}:agent", "--data", kept, folder=tmp_path, env=env) as running:
        async with Fabric.connect(running.nats_url) as client:
            tasks = await fill(client)
            # What was done by hand is noted a moment later.
            before = await until(partial(digest, client.jetstream), lambda found: AUDIT.name in found)
        saved = await inside("backup", backup, "--data", kept, "--json")
        assert saved.code == 0, saved.err
        assert backup.stat().st_mode & 0o777 == 0o600
        (await inside("restore", backup, "--data", kept)).refused(2, "the fabric runs", "kill")
    token = (kept / "token").read_text()
    shutil.rmtree(kept)

    restored = fabric("restore", backup, "--data", kept)
    assert restored.code == 0, restored.err
    assert (kept / "token").read_text() == token
    async with run_broker(kept, lambda _: None) as (_, url):
        assert await of(url) == before
        assert {name: count for name, (count, _, _) in before.items()} == {
            part["name"]: part["messages"] for part in saved.json["streams"]
        }

    with up(f"{SHOP}:closed", "--data", kept, folder=tmp_path, env=env) as running:  # its Redis knows nothing
        async with Fabric.connect(running.nats_url) as client:
            there = {each["name"] for each in (await client.agent("registry").call("catalogue"))["agents"]}
            assert {"closed", "access", "durable"} <= there
            for name, task in tasks.items():
                if name != "later":
                    again = client.agent(task.agent).task(task.id)
                    await until(again.status, lambda record: record.ended, seconds=30, what=name)
                    assert (await again.status()).state == ("dead" if name == "dead" else "completed")
            joined = await client.agent("shop").start("order", {"item": "done"}, key="done")
            assert joined.joined, "a key still names the task that it named"
            async with client.subscribe("tea.*", group="billing") as events:
                assert (await anext(events)).data == {"cups": 2}, "what was acknowledged does not come again"
            assert len((await client.conversation("customer-7").read()).entries) == 1
            assert await client.agent("closed").unschedule("nightly"), "the schedule is there"
            assert [each["name"] for each in await client.agent("access").call("list_tokens")] == ["ci"]
    done = Counter(book.read_text().splitlines())
    assert done == Counter({**{f"{number}": 1 for number in range(MANY)}, "done": 1, "soon": 1, "x" * 16: 1})
