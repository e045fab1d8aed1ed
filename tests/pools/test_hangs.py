"""Workers that hang are replaced, and those told to stop do not wait for what hangs. Proves: RT-6, CM-2, PT-1."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cli.command import Started, Up, part, started, up, worker
from process.helpers import Events

from fabric.pool.specs import PoolSpec, mistakes_told, worker_specs
from fabric.pool.threads import Threads
from fabric.process import Exited, HealthPolicy, Ready, Supervisor, Unhealthy
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts.errors import DeadlineExceeded, TransportUnavailable

pytestmark = pytest.mark.timeout(90)

SERVER = """\
import asyncio, os, pathlib, time
from fabric_sdk import Agent

agent = Agent("sticky")

@agent.tool(annotations={"readOnlyHint": True})
async def pid() -> int:
    return os.getpid()

@agent.tool
async def block() -> None:
    while True:
        pass

@agent.tool
def hang() -> None:
    pathlib.Path(os.environ["BEGUN"]).touch()
    time.sleep(1000)

@agent.tool
async def linger() -> None:
    pathlib.Path(os.environ["BEGUN"]).touch()
    await asyncio.sleep(1000)
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return path


@pytest.fixture
def env(node: Up, tmp_path: Path) -> dict[str, str]:
    """Of workers: where the bus is, and the file that tells that a tool has begun."""
    return node.env | {"BEGUN": str(tmp_path / "begun")}


async def ask(node: Up, tool: str, timeout: float = 10.0) -> int:
    async with Fabric.connect(node.nats_url) as connected:
        return await connected.agent("sticky").call(tool, timeout=timeout)


@contextmanager
def lingering(env: dict[str, str], folder: Path) -> Generator[Started]:
    """A call that has begun, and would take very long."""
    with started("call", "sticky", "linger", folder=folder, env=env) as call:
        call.until((folder / "begun").exists, what="the beginning of the call")
        yield call


@pytest.mark.parametrize("how", ["a handler that blocks", "a stopped process"])
def test_a_worker_whose_event_loop_stands_still_is_replaced(how: str, node: Up, server: Path, tmp_path: Path) -> None:
    async def check() -> None:
        events = Events()
        spec = worker_specs(PoolSpec(target=str(server), silence=2.5), run=tmp_path, env=node.env)(1)
        async with Supervisor(events, health=HealthPolicy(interval=0.1, timeout=1.0, failures=3)) as supervisor:
            await supervisor.start(spec)
            first = await events.next(Ready)
            await asyncio.sleep(4.0)  # longer than that silence: one that only waits is left alone
            assert await ask(node, "pid") == first.pid
            if how == "a stopped process":
                os.kill(first.pid, signal.SIGSTOP)
            else:
                with suppress(FabricError):
                    await ask(node, "block", timeout=0.5)
            assert "its event loop has stood still for" in (await events.next(Unhealthy)).reason
            assert (await events.next(Exited)).signal == "SIGKILL"
            second = await events.next(Ready)
            assert await ask(node, "pid") == second.pid != first.pid

    asyncio.run(check())


def test_a_worker_in_which_too_many_threads_hang_makes_room_for_a_fresh_one(
    node: Up, server: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with worker(server, "--concurrency", "2", folder=tmp_path, env=env) as command:
        old = part(command.pid, "server-1")
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                asyncio.run(ask(node, "hang", timeout=1.0))
        command.until_said("2 of 4 threads are taken by functions that still run though their calls have ended")
        command.until_said("sticky (server-1): exited with code 3", seconds=5)
        command.until_said("ready", times=2)
        assert asyncio.run(ask(node, "pid")) != old
        assert command.stop() == 0


def test_a_worker_is_stopped_at_once_though_a_function_hangs_whose_call_has_ended(
    node: Up, server: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with worker(server, folder=tmp_path, env=env) as command:
        with pytest.raises(DeadlineExceeded):
            asyncio.run(ask(node, "hang", timeout=1.0))
        at = time.monotonic()
        assert command.stop() == 0
        assert time.monotonic() - at < 5.0


def test_threads_count_as_hung_from_when_nobody_waits_until_they_end() -> None:
    async def check() -> None:
        loop, threads = asyncio.get_running_loop(), Threads(1)
        begun, ends = asyncio.Event(), threading.Event()

        def work() -> None:
            loop.call_soon_threadsafe(begun.set)
            ends.wait()

        running, waiting = loop.run_in_executor(threads, work), loop.run_in_executor(threads, work)
        await begun.wait()
        assert threads.hung(0.0) == 0
        running.cancel()
        waiting.cancel()
        await asyncio.wait({running, waiting})
        assert (threads.hung(0.0), threads.hung(60.0)) == (1, 0), "the one that waits never begins"
        ends.set()
        assert await loop.run_in_executor(threads, lambda: "free again") == "free again"
        assert threads.hung(0.0) == 0
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(threads, lambda: 1 / 0)

    asyncio.run(check())


def test_a_second_signal_ends_a_worker_that_drains_and_its_callers_are_told(
    server: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with worker(server, folder=tmp_path, env=env) as command, lingering(env, tmp_path) as call:
        shortened(command, signal.SIGTERM)
        call.until_said("the worker was stopped before the call ended")


def test_a_second_signal_ends_a_fabric_that_drains(server: Path, tmp_path: Path) -> None:
    env = {"BEGUN": str(tmp_path / "begun")}
    with up("--ephemeral", server, folder=tmp_path, env=env) as node, lingering(node.env, tmp_path):
        shortened(node.command, signal.SIGINT)


def shortened(command: Started, again: signal.Signals) -> None:
    """Hold a command with a call in hand to wait for it at the first signal, and to end quickly at the second."""
    command.process.send_signal(signal.SIGINT)
    command.until_said("stopping: calls in hand are finished first; Ctrl-C again ends them now")
    assert command.process.poll() is None
    command.process.send_signal(again)
    at = time.monotonic()
    assert command.process.wait(10) == 130
    assert time.monotonic() - at < 5.0
    assert "Traceback" not in command.said


def test_a_worker_without_nats_says_where_it_looked_and_what_to_do(server: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"nats://127.0.0.1:{taken.getsockname()[1]}"
    spec = worker_specs(
        PoolSpec(target=str(server)), run=tmp_path, env={"FABRIC_NATS_URL": url.replace("//", "//u:p@")}
    )

    async def check() -> None:
        async with Supervisor() as supervisor:
            with pytest.raises(TransportUnavailable) as raised, mistakes_told(tmp_path):
                await supervisor.start(replace(spec(1), startup=3.0))
        assert raised.value.message == f"no NATS server answers at {url}; server-1 kept trying for 60 s"
        assert raised.value.fix == "start one with `fabric up`, or check FABRIC_NATS_URL"

    asyncio.run(check())


def test_the_folder_of_a_killed_worker_is_removed_by_the_next_start_and_that_of_a_living_one_is_not(
    server: Path, env: dict[str, str], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env |= {"TMPDIR": str(temporary)}

    def folders() -> set[Path]:
        return set(temporary.glob("agent-fabric-run-*"))

    with worker(server, folder=tmp_path, env=env):
        living = folders()
        with worker(server, folder=tmp_path, env=env) as killed:
            assert len(left := folders() - living) == 1
            killed.process.kill()
            killed.process.wait()
        assert folders() == living | left
        with started("worker", server, folder=tmp_path, env=env) as next_one:
            next_one.until_said("ready")
            assert len(folders()) == 2
            assert folders() & (living | left) == living
            assert next_one.stop() == 0
        assert folders() == living
    assert not folders()
