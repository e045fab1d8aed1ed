"""Who is there, in a whole fabric on a Redis 6.2 of its own: agents that come, go, die, and what is shown of them.

Proves: CM-1, CM-2, OP-1
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from gateway.client import tools
from support.running import FABRIC, Running, running_fabric
from support.waiting import eventually

from fabric.registry.service import Catalogue
from fabric.registry.store import LEASE
from fabric_sdk import Fabric
from fabric_sdk.contracts.description import Beat
from fabric_sdk.contracts.envelope import Body, Message
from registry.conftest import until
from registry.servers import Server

HELLO = Path(__file__).parent.parent / "agents" / "hello.py"
SOON = 3.0
"""Seconds in which a change has to be seen; the next heartbeat may come later."""

AGENT = """
from fabric_sdk import Agent

agent = Agent("NAME")


@agent.tool(annotations={"readOnlyHint": True})
async def ok() -> int:
    return 1
"""


@pytest.fixture(scope="module")
def fabric_on_redis(redis_server: Server) -> Generator[Running]:
    """A fabric of its own, whose Redis the tests take away and empty."""
    with running_fabric(str(HELLO), "--processes", "2", env={"FABRIC_REDIS_URL": redis_server.url}) as running:
        assert "valkey-server" not in running.pids
        yield running


@pytest.fixture
async def fabric(fabric_on_redis: Running) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(fabric_on_redis.nats_url) as fabric:
        yield fabric


class Seen:
    """The catalogue and the list of tools, as an operator and a client see them."""

    def __init__(self, running: Running, fabric: Fabric) -> None:
        self._running = running
        self.fabric = fabric

    async def catalogue(self) -> Catalogue:
        return Catalogue.model_validate(await self.fabric.agent("registry").call("catalogue", timeout=15))

    async def instances(self, agent: str) -> list[Beat]:
        found = [entry.instances for entry in (await self.catalogue()).agents if entry.name == agent]
        return found[0] if found else []

    async def pids(self, agent: str = "hello") -> set[int]:
        return {beat.pid for beat in await self.instances(agent)}

    def lists(self, tool: str) -> bool:
        return tool in tools(self._running)


@pytest.fixture
def seen(fabric_on_redis: Running, fabric: Fabric) -> Seen:
    return Seen(fabric_on_redis, fabric)


@asynccontextmanager
async def pool(running: Running, folder: Path, name: str) -> AsyncGenerator[psutil.Process]:
    """A pool of one worker of a new agent; yields the worker's process as soon as the command runs."""
    module, log = folder / f"{name.replace('-', '_')}.py", folder / f"{name}.log"
    module.write_text(AGENT.replace("NAME", name))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(FABRIC, "worker", module, "--ready-file", folder / name), env=running.env, stdout=output, stderr=output
        )
    try:
        await eventually(lambda: (folder / name).exists(), seconds=30, what="the pool")
        yield psutil.Process(process.pid)
        process.terminate()
        assert await process.wait() == 0, log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_catalogue_shows_what_is_there(seen: Seen, fabric_on_redis: Running) -> None:
    await until(seen.pids, lambda pids: pids == {fabric_on_redis.pids[f"hello-{number}"] for number in (1, 2)})
    catalogue = await until(seen.catalogue, lambda catalogue: catalogue.revision > 0)
    assert [entry.name for entry in catalogue.agents] == [
        "access",
        "approvals",
        "audit",
        "durable",
        "hello",
        "registry",
    ]
    hello = next(entry for entry in catalogue.agents if entry.name == "hello")
    for beat in hello.instances:
        assert (beat.version, beat.state, beat.capacity, beat.digest) == ("1.2.3", "ready", 64, hello.digest)


async def test_an_agent_is_listed_soon_after_it_starts_and_gone_when_it_stops(
    seen: Seen, fabric_on_redis: Running, tmp_path: Path
) -> None:
    async with pool(fabric_on_redis, tmp_path, "comer"):
        ready = time.monotonic()
        await eventually(lambda: seen.lists("comer_ok"), seconds=SOON, what="the new agent's tool")
        assert len(await until(lambda: seen.instances("comer"), bool, seconds=SOON)) == 1
        assert time.monotonic() - ready < SOON
    await until(lambda: seen.instances("comer"), lambda instances: not instances, seconds=SOON)
    assert seen.lists("comer_ok"), "a restart must not empty a client's list"


async def test_a_worker_is_gone_at_once_when_it_is_told_to_and_after_its_lease_when_it_dies(
    seen: Seen, fabric_on_redis: Running
) -> None:
    told, killed = (fabric_on_redis.pids[f"hello-{number}"] for number in (1, 2))
    assert await seen.pids() == {told, killed}
    os.kill(killed, signal.SIGKILL)
    died = time.monotonic()
    os.kill(told, signal.SIGTERM)
    await until(seen.pids, lambda pids: told not in pids, seconds=SOON)
    # the dead one counts until its lease ends; meanwhile another stands in for it
    await until(seen.pids, lambda pids: len(pids - {told, killed}) >= 1, seconds=SOON)
    pids = await until(seen.pids, lambda pids: killed not in pids, seconds=LEASE + 2)
    assert time.monotonic() - died > LEASE - 6, "no earlier than the lease of its last heartbeat ends"
    assert pids
    assert seen.lists("hello_echo")
    assert await seen.fabric.agent("hello").call("echo", {"text": "x"}) == "x"


async def test_heartbeats_that_are_malformed_are_ignored(seen: Seen, fabric_on_redis: Running, tmp_path: Path) -> None:
    good: dict[str, Any] = (await seen.instances("hello"))[0].model_dump()
    for number, wrong in enumerate(
        [
            b"\xff",
            b"{}",
            b"[" * 2000,
            Body({**good, "agent": "Not a name"}).encoded(),
            Body({**good, "instance": "*"}).encoded(),
            Body({**good, "instance": "x", "started": 1e308}).encoded(),
            Body({**good, "instance": "x"}).encoded().replace(b'"pid":', b'"pid":9999999999999999'),
        ]
    ):
        await seen.fabric.transport.publish(Message(f"fab.beat.hello.x{number}", Body(encoded=wrong)))
    async with pool(fabric_on_redis, tmp_path, "after-nonsense"):
        await eventually(lambda: seen.lists("after-nonsense_ok"), seconds=SOON, what="the new agent's tool")
    names = {entry.name for entry in (await seen.catalogue()).agents}
    assert "Not a name" not in names
    assert not {"x", "*"} & {beat.instance for beat in await seen.instances("hello")}


async def test_agents_that_beat_and_do_not_answer_hold_up_nobody(
    seen: Seen, fabric_on_redis: Running, tmp_path: Path
) -> None:
    good: dict[str, Any] = (await seen.instances("hello"))[0].model_dump()
    for number in range(5):
        ghost = {**good, "agent": f"ghost-{number}", "instance": f"g{number}", "digest": f"d{number}"}
        await seen.fabric.transport.publish(Message(f"fab.beat.ghost-{number}.g{number}", Body(ghost)))
    await until(lambda: seen.instances("ghost-4"), bool)
    async with pool(fabric_on_redis, tmp_path, "haunted"):
        await eventually(lambda: seen.lists("haunted_ok"), seconds=SOON, what="the new agent's tool")
    assert seen.lists("hello_echo")


async def test_nothing_is_missed_while_redis_is_emptied_down_and_back(
    seen: Seen, fabric_on_redis: Running, redis_server: Server, tmp_path: Path
) -> None:
    watching, missed = asyncio.Event(), 0

    async def watch() -> None:
        nonlocal missed
        while not watching.is_set():
            missed += not await asyncio.to_thread(seen.lists, "hello_echo")

    watcher = asyncio.create_task(watch())
    before = {"hello", "registry"}
    with redis_server.client() as client:
        client.flushall()
    catalogue = await until(seen.catalogue, lambda catalogue: catalogue.revision > 0)
    assert before <= {entry.name for entry in catalogue.agents if entry.instances}

    redis_server.stop()
    catalogue = await until(seen.catalogue, lambda catalogue: catalogue.revision == 0)
    assert before <= {entry.name for entry in catalogue.agents if entry.instances}, "asked on the bus"
    async with pool(fabric_on_redis, tmp_path, "without-redis"):
        await eventually(lambda: seen.lists("without-redis_ok"), seconds=2 * SOON, what="the new agent's tool")
        assert await seen.fabric.agent("without-redis").call("ok") == 1

        redis_server.start()
        catalogue = await until(seen.catalogue, lambda catalogue: catalogue.revision > 0)
        assert before | {"without-redis"} <= {entry.name for entry in catalogue.agents if entry.instances}
    watching.set()
    await watcher
    assert missed == 0, "the tools of an agent that was there all the time were always listed"
