"""`fabric gateway --replicas` and `fabric up --gateways`: many gateways behind one port, each replaced when it dies.

Proves: GW-5, CM-2
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx
from gateway.client import Client
from gateway.handshake import Session
from support.running import Running, wait_until

from cli.command import Started, alive, fabric, family, started, up


def gateways(head: int) -> list[int]:
    """The process ids of all gateways below a process."""
    found = [process for process in alive(family(head)) if "fabric.gateway.process" in process.cmdline()]
    return sorted(process.pid for process in found)


def address(command: Started) -> str:
    command.until_said("2 gateways at")
    found = re.search(r"2 gateways at (\S+)", command.said)
    assert found is not None
    return found[1]


async def test_replicas_are_replaced_and_drained(hello_fabric: Running, tmp_path: Path) -> None:
    env = {"FABRIC_NATS_URL": hello_fabric.nats_url, "FABRIC_TOKEN": "secret", "FABRIC_PORT": "0"}
    with started("gateway", "--replicas", "2", folder=tmp_path, env=env) as command:
        url = address(command)
        before = gateways(command.pid)
        assert len(before) == 2
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            session = await Session.open(http, url, "secret")
            os.kill(before[0], signal.SIGKILL)
            for number in range(20):
                async with httpx.AsyncClient(trust_env=False, timeout=30) as fresh:  # a connection of its own
                    session.http = fresh
                    assert (await session.ask(url, "ping", number=number))["result"] == {}
                    await Client(url, "secret", fresh).still_serves()
            command.until(lambda: len(gateways(command.pid)) == 2, what="the new gateway")
            assert before[1] in gateways(command.pid)
            command.until_said("ready", times=4)  # two at first, both together, and the new one
            session.http = http
            async with session.listen(url) as stream:
                await stream.begun()
                command.process.send_signal(signal.SIGTERM)
                assert await stream.rest() == []
        assert command.process.wait(20) == 0, command.said


def test_a_whole_fabric_may_have_many(tmp_path: Path) -> None:
    with up("--ephemeral", "--gateways", "2", folder=tmp_path) as running:
        both = {name: pid for name, pid in running.pids.items() if name.startswith("gateway")}
        assert both.keys() == {"gateway", "gateway-2"}
        os.kill(both["gateway-2"], signal.SIGKILL)
        running.command.until_said("gateway-2 pid", times=2)
        wait_until(lambda: len(gateways(running.pid)) == 2, what="the new gateway")
        assert running.command.stop() == 0


def test_what_cannot_work_is_told_at_once() -> None:
    missing: list[dict[str, Any]] = [{}, {"FABRIC_NATS_URL": "nats://127.0.0.1:1"}]
    for env, word in zip(missing, ("FABRIC_NATS_URL", "FABRIC_TOKEN"), strict=True):
        fabric("gateway", "--replicas", "2", env=env).refused(2, word)
    assert fabric("gateway", "--replicas", "0", env={}).code == 2
