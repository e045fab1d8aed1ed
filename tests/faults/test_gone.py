"""Whoever started a fabric is killed: nothing of it remains, and nothing else is harmed. Proves: RT-6, OP-1."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest
from cli.command import Done, Started, alive, fabric, part, up, worker
from faults.load import MILL, measure
from support.running import wait_until

pytestmark = pytest.mark.timeout(90)

PARTS = ("nats-server", "valkey-server", "registry-1", "gateway", "mill-1")


def test_nothing_remains_of_a_killed_fabric_and_its_pools_go_on_with_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        up("--data", data, MILL, folder=tmp_path) as first,
        worker(f"{MILL}:press", "--data", data, folder=tmp_path, env={}) as pool,
    ):
        workers = pool.family()
        assert all(part(first.pid, name) for name in PARTS)
        kill(first.command)
        assert alive(workers) == workers, "a pool of its own is not the fabric's to end"
        with up("--data", data, MILL, folder=tmp_path) as second:
            assert (second.nats_url, second.redis_url, second.token) == (first.nats_url, first.redis_url, first.token)
            at = time.monotonic()
            wait_until(lambda: works("press", data).code == 0, what="an answer of the pool that went on")
            measure("the pool that went on answers", time.monotonic() - at)
            assert works("mill", data).code == 0
            assert alive(workers) == workers
            kill(pool)
            assert works("mill", data).code == 0
            assert second.command.stop() == 0


ESCAPING = """\
import os, subprocess, sys, time
from fabric_sdk import Agent

agent = Agent("escaping")

@agent.tool
async def escape() -> list[int]:
    if (copy := os.fork()) == 0:
        time.sleep(1000)
    asleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    session = subprocess.Popen(asleep, env={}, start_new_session=True).pid
    between = f"import subprocess; print(subprocess.Popen({asleep!r}, start_new_session=True, stdout=2).pid)"
    orphan = int(subprocess.check_output([sys.executable, "-c", between], start_new_session=True))
    return [os.getpid(), copy, session, orphan]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a process that leaves the group gets away")
def test_nothing_remains_of_what_handlers_started_when_a_worker_or_the_whole_fabric_is_killed(tmp_path: Path) -> None:
    data, server = tmp_path / "data", tmp_path / "server.py"
    server.write_text(ESCAPING)

    def escaped() -> list[psutil.Process]:
        done = fabric("call", "escaping", "escape", "--json", "--data", str(data))
        return [psutil.Process(pid) for pid in done.json]

    with up("--data", data, server, folder=tmp_path) as node:
        worker, *left = escaped()
        worker.kill()
        wait_until(lambda: not alive({worker, *left}), seconds=5.0, what="the end of what a worker left behind")
        node.command.until_said("ready    escaping (server-1)", times=2)
        everything = set(escaped())
        kill(node.command)
        wait_until(lambda: not alive(everything), seconds=5.0, what="the end of what the fabric left behind")


def works(agent: str, data: Path) -> Done:
    return fabric("call", agent, "work", "text=hi", "work=0", "--timeout", "5", "--data", data)


def kill(command: Started) -> None:
    """SIGKILL it and hold everything below it to be gone within 5 s."""
    everything = command.family()
    command.process.kill()
    at = time.monotonic()
    command.process.wait()
    wait_until(lambda: not alive(everything), seconds=5.0, what="the end of all processes")
    measure(f"all {len(everything)} processes are gone", time.monotonic() - at)
