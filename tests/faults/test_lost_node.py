"""A server of the cluster has just died, and nobody knows it yet: who reads, and who comes back, finds those that live.

Proves: EV-3 (replay), MB-3 (a server's death).
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from soak.cluster import HOST, cluster
from support.waiting import eventually

from fabric_sdk import Fabric
from fabric_sdk.patterns.gather import gather
from fabric_sdk.transports.nats import NatsTransport

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

_READERS = 30


async def test_readers_and_users_come_to_servers_that_live(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        async with Fabric.connect(nodes.url) as fabric:
            await fabric.publish("kept", 1)
            about = await fabric.jetstream.request("STREAM.INFO.FAB_EVENTS")
            victim = next(node for node in nodes.nodes if node.name != about["cluster"]["leader"])
            # It is told of the other servers by this one: without a user, whom they would take for somebody else.
            system = await NatsTransport.connect(f"nats://sys:sys@{HOST}:{victim.port}")

            async def read() -> list[object]:
                async with fabric.replay("kept") as events:
                    return [event.data async for event in events]

            victim.signal(signal.SIGKILL)
            try:
                assert await asyncio.gather(*(read() for _ in range(_READERS))) == [[1]] * _READERS
                await eventually(lambda: system.connected, what="the connection to another server")
                answers = await gather(system, "$SYS.REQ.SERVER.PING", seconds=5, most=2)
                assert {answer["server"]["name"] for answer in answers} == {
                    node.name for node in nodes.nodes if node is not victim
                }
            finally:
                await system.close()
