"""What `fabric doctor` says of a server's durable half, and what commands say where there is none.

Proves: MB-3 (whether it reaches the disk is told), OP-1
"""

from __future__ import annotations

import asyncio
import time

import pytest
from support.nats_server import HOST, PrivateNats, private_nats

from cli.inside import fabric_inside
from cli.servers import free_port
from fabric.cli.durability import Doubt, streams, syncs
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import QueueFull
from fabric_sdk.contracts.streams import EVENTS

ALWAYS = 'jetstream { store_dir: "js", sync_interval: always }\n'
SELDOM = 'jetstream { store_dir: "js" }\n'


def look(nats: PrivateNats, monkeypatch: pytest.MonkeyPatch, monitor: str) -> str:
    """What is found of this server's syncing, with this address of a monitor."""
    monkeypatch.setenv("FABRIC_NATS_URL", nats.url)
    return asyncio.run(syncs(None, f"http://{monitor}"))


def test_whether_the_server_syncs_is_asked_of_its_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, careless = (f"{HOST}:{free_port()}" for _ in range(2))
    with private_nats(f'{ALWAYS}http: "{monitor}"\n') as nats, private_nats(f'{SELDOM}http: "{careless}"\n') as other:
        assert "syncs before it acknowledges" in look(nats, monkeypatch, monitor)
        with pytest.raises(Doubt, match="up to the last 2m of accepted tasks and events are lost") as doubt:
            look(other, monkeypatch, careless)
        assert "sync_interval: always" in str(doubt.value.fix)
        for address in (monitor, f"{HOST}:{free_port()}"):  # that of another server; of none
            with pytest.raises(Doubt, match="cannot be asked from here") as doubt:
                look(other, monkeypatch, address)
            assert "sync_interval: always" in str(doubt.value.fix)
            assert "--nats-monitor http://" in str(doubt.value.fix)


def test_a_server_without_jetstream_is_told_at_once() -> None:
    with private_nats() as nats:
        env = {"FABRIC_NATS_URL": nats.url}
        found = {each["check"]: each for each in fabric_inside("doctor", "--json", env=env).json}
        assert (found["jetstream"]["state"], found["streams"]["state"]) == ("failed", "warning")
        assert "jetstream {" in found["jetstream"]["fix"]
        for command in ("task list", "dead list", "schedule list", "events replay"):
            began = time.monotonic()
            fabric_inside(*command.split(), env=env).refused(3, "runs without JetStream", "sync_interval: always")
            assert time.monotonic() - began < 5


def test_a_stream_that_is_nearly_full_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def publish(count: int) -> None:
        async with Fabric.connect(nats.url) as fabric:
            small = EVENTS.config(1) | {"max_bytes": 100_000}
            await fabric.jetstream.request(f"STREAM.CREATE.{EVENTS.name}", small)
            for _ in range(count):
                await fabric.publish("big.x", "x" * 10_000)

    with private_nats(ALWAYS) as nats:
        monkeypatch.setenv("FABRIC_NATS_URL", nats.url)
        assert "none yet" in asyncio.run(streams(None))
        asyncio.run(publish(4))
        assert asyncio.run(streams(None)).startswith("FAB_EVENTS: 4 messages, 0.0 MiB, 41% full; FAB_SCHEMAS: 0 ")
        asyncio.run(publish(5))
        with pytest.raises(Doubt, match=r"^FAB_EVENTS: 9 messages, 0\.1 MiB, 9\d% full") as doubt:
            asyncio.run(streams(None))
        assert "nats stream edit FAB_EVENTS" in str(doubt.value.fix)
        with pytest.raises(QueueFull, match="takes no more"):
            asyncio.run(publish(1))
