"""A replica that silently lost messages is found; replicas that are only busy are not accused.

Proves: MB-3 (what nats-server does not notice by itself, the fabric does).
"""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.nats_server import private_nats
from support.running import wait_until

from fabric.durable import replicas as auditing
from fabric.durable.replicas import LOOKS, Alarm, Replica, audit, lacking, watch
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import EVENTS
from fabric_sdk.transports.nats import NatsTransport
from soak.cluster import Cluster, Node, cluster

pytestmark = pytest.mark.anyio

_BATCHES, _BATCH = 100, 500
SYSTEM = """
jetstream { store_dir: "js" }
accounts {
  $SYS { users: [{ user: sys, password: sys }] }
  A { jetstream: enabled, users: [{ user: a, password: a }] }
}
no_auth_user: a
"""


def copies(*states: tuple[int, int]) -> dict[str, tuple[Replica, ...]]:
    return {"A/S": tuple(Replica(f"n{number}", *state) for number, state in enumerate(states))}


def test_a_replica_that_is_behind_is_not_accused() -> None:
    assert lacking(copies((90, 90), (90, 90)), copies((100, 100), (40, 40))) == {}


def test_a_replica_that_is_busy_is_not_accused() -> None:
    assert lacking(copies((80, 90), (80, 90)), copies((100, 200), (60, 200))) == {}


def test_one_message_counts_when_all_is_still() -> None:
    still = copies((100, 100), (99, 100), (100, 100))
    assert lacking(still, still) == {("A/S", "n1"): 1}


def test_the_leader_may_be_the_one_that_lost() -> None:
    assert lacking(copies((9000, 9000), (8000, 9000)), copies((5000, 9100), (9100, 9100))) == {("A/S", "n0"): 4100}


async def test_a_server_that_says_nonsense_is_told_of_once_and_the_others_are_still_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auditing, "_GATHER_SECONDS", 0.05)
    monkeypatch.setattr(auditing, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(auditing, "audit", partial(audit, between=0.01))
    looks, nonsense = asyncio.Semaphore(0), f"nonsense {time.time()}"
    with private_nats(SYSTEM) as server:
        system_url = server.url.replace("//", "//sys:sys@")
        async with Fabric.connect(server.url) as fabric:
            odd = await NatsTransport.connect(system_url)

            def answer(message: Message) -> None:
                if message.reply:
                    stream = {"name": "S", "state": {"messages": nonsense}}
                    said = {"data": {"account_details": [{"name": "A", "stream_detail": [stream]}]}}
                    publishing.add(asyncio.create_task(odd.publish(Message(message.reply, Body(said)))))
                    looks.release()

            publishing = set[asyncio.Task[None]]()
            await odd.subscribe("$SYS.REQ.SERVER.PING.JSZ", answer)
            await fabric.jetstream.ensure(EVENTS)
            watching = asyncio.create_task(watch(fabric, system_url))
            async with asyncio.timeout(20):
                for _ in range(2 * (LOOKS + 1) + 1):
                    await looks.acquire()
            assert not watching.done()
            found = await auditing.look(odd)
            await end([watching])
            await odd.close()
    (told,) = [record.getMessage() for record in caplog.records if record.name == auditing.__name__]
    assert nonsense in told
    assert {name: [copy.server for copy in copies] for name, copies in found.items()} == {"A/FAB_EVENTS": ["test"]}


@pytest.mark.timeout(180)
async def test_a_damaged_disk_is_found(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        async with Fabric.connect(nodes.url) as fabric:
            await fabric.jetstream.ensure(EVENTS)
            body = Body({"text": "x" * 1000})
            for _ in range(_BATCHES):
                await fabric.jetstream.store_all([Message("fab.event.audit", body) for _ in range(_BATCH)])
            about = await fabric.jetstream.request("STREAM.INFO.FAB_EVENTS")
        system = await NatsTransport.connect(nodes.system_url)
        try:
            alarms = await audit(system, between=0.1)
            assert alarms == []
            victim = next(node for node in nodes.nodes if node.name != about["cluster"]["leader"])
            await asyncio.to_thread(_damage_and_restart, nodes, victim)
            lost = _BATCHES * _BATCH - _state(victim)["messages"]
            assert lost > 0
            assert await audit(system, between=0.5) == [Alarm("SOAK/FAB_EVENTS", victim.name, lost)]
        finally:
            await system.close()
    assert str(Alarm("A/S", "n1", 3)) == "the copy of A/S on n1 lacks 3 messages that others have"


def _damage_and_restart(nodes: Cluster, victim: Node) -> None:
    """Damage the disk of one node; returns when it has caught up with the others, as it sees it."""
    victim.signal(signal.SIGTERM)
    _damage(victim.store)
    victim.start()
    nodes.wait()
    wait_until(lambda: _state(victim).get("last_seq") == _BATCHES * _BATCH, seconds=30, what="the last message")


def _state(node: Node) -> dict[str, Any]:
    """What the node itself says of its copy."""
    accounts: list[dict[str, Any]] = node.monitored("/jsz?accounts=1&streams=1")["account_details"]
    details: list[dict[str, Any]] = [each for account in accounts for each in account.get("stream_detail", [])]
    return details[0]["state"] if details else {}


def _damage(store: Path) -> None:
    """Flip one bit in the middle of the first block of messages, and let the server read its blocks again."""
    blocks = sorted(store.glob("jetstream/*/streams/FAB_EVENTS/msgs/*.blk"))
    content = bytearray(blocks[0].read_bytes())
    content[len(content) // 2] ^= 1
    blocks[0].write_bytes(content)
    for index in store.glob("jetstream/*/streams/FAB_EVENTS/msgs/index.db"):
        index.unlink()
