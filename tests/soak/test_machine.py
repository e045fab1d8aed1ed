"""A machine is lost with its disk, while tasks and events come in, and comes back empty under its name.

Proves: MB-3 (the loss of a machine).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from support.waiting import until

from fabric_sdk import Agent, Fabric, FabricError, Task
from fabric_sdk.contracts.streams import EVENTS, RECORDS, TASKS
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker
from soak.cluster import Node, cluster

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

_STREAMS: Final = (TASKS, RECORDS, EVENTS)
_ACCEPTED: Final = 300


async def test_what_was_accepted_outlives_a_machine_and_its_disk(tmp_path: Path) -> None:
    done: list[int] = []
    agent = Agent("adder")

    @agent.tool
    async def add(number: int) -> int:
        done.append(number)
        return number

    with cluster(tmp_path) as nodes:
        async with Fabric.connect(nodes.url) as fabric:
            for stream in _STREAMS:
                await fabric.jetstream.ensure(stream)
            other, _, lost = nodes.nodes
            await _led_by(fabric, other)  # a lost leader costs an election, seconds long: the soak has many
            accepting = asyncio.create_task(_accept(fabric))
            await until(lambda: _messages(fabric), lambda count: count > _ACCEPTED // 4, what="some of the tasks")
            await asyncio.to_thread(lost.signal, signal.SIGKILL)
            shutil.rmtree(lost.store)
            # A write whose confirmation went with the machine is repeated after 5 s, and several may follow each other.
            two = _ACCEPTED // 2
            await until(lambda: _messages(fabric), lambda count: count > two, seconds=60, what="what two accept")
            lost.start()
            tasks = await accepting
            await asyncio.to_thread(nodes.wait)
            replicas = [await until(partial(_replicas, fabric, stream.name), _is_whole) for stream in _STREAMS]
            await _led_by(fabric, lost)  # from here on, what it has is what there is
            transport = await NatsTransport.connect(nodes.url)
            worker = Worker(transport, agent)
            await worker.start()
            results = await asyncio.gather(*(task.result(timeout=60) for task in tasks))
            async with fabric.replay("added") as events:
                told = [event.data async for event in events]
            await worker.drain(1.0)
            await transport.close()
    assert all(lost.name in {each["name"] for each in three} for three in replicas)
    assert results == sorted(done) == sorted(told) == list(range(_ACCEPTED))


async def _accept(fabric: Fabric) -> list[Task]:
    """Start tasks and publish events, as fast as they are accepted one by one."""
    tasks: list[Task] = []
    for number in range(_ACCEPTED):
        tasks.append(await fabric.agent("adder").start("add", {"number": number}, key=f"k{number}"))
        await fabric.publish("added", number, id=f"e{number}")
    return tasks


async def _led_by(fabric: Fabric, node: Node) -> None:
    """Return when one node leads all of the streams."""
    for stream in _STREAMS:

        async def leader(name: str = stream.name) -> str | None:
            now: str | None = (await fabric.jetstream.request(f"STREAM.INFO.{name}"))["cluster"].get("leader")
            if now not in (node.name, None):
                with suppress(FabricError):  # it may lack some message still
                    where = {"placement": {"preferred": node.name}}
                    await fabric.jetstream.request(f"STREAM.LEADER.STEPDOWN.{name}", where)
            return now

        await until(leader, lambda now: now == node.name, what="the leader")


async def _messages(fabric: Fabric) -> int:
    return int((await fabric.jetstream.request(f"STREAM.INFO.{TASKS.name}"))["state"]["messages"])


async def _replicas(fabric: Fabric, stream: str) -> list[dict[str, Any]]:
    """The replicas of a stream, its leader's among them."""
    about = (await fabric.jetstream.request(f"STREAM.INFO.{stream}"))["cluster"]
    return [{"name": about.get("leader"), "current": "leader" in about}, *about.get("replicas", [])]


def _is_whole(replicas: list[dict[str, Any]]) -> bool:
    current = [each["current"] and not each.get("lag") and not each.get("offline") for each in replicas]
    return current == [True, True, True]
