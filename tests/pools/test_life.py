"""The life of a pool: crashes, restarts, drains, new code. Proves: RT-6, CM-2, PT-1."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.command import Started, Up, fabric, part, signal_part, started, worker
from support.running import wait_until

from fabric_sdk import Fabric, FabricError

pytestmark = pytest.mark.timeout(90)

SERVER = """\
import asyncio, os, pathlib
from fabric_sdk import Agent

agent = Agent("changing")

@agent.tool(annotations={"readOnlyHint": True})
async def version() -> int:
    await asyncio.sleep(0.05)
    return %d

@agent.tool
async def linger(seconds: float) -> str:
    pathlib.Path("begun").touch()
    await asyncio.sleep(seconds)
    return "done at last"
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(SERVER % 1)
    return path


class Asked:
    """What a few callers, asking all the time, were answered."""

    def __init__(self, command: Started) -> None:
        self._command = command
        self.answers: list[int] = []
        self.failures: list[FabricError] = []
        self.done = threading.Event()

    def await_only(self, version: int, *, last: int = 50) -> None:
        """Wait until the last answers are all of this version."""
        self._command.until(lambda: self.answers[-last:] == [version] * last, what=f"version {version}")


@contextmanager
def asked(node: Up, command: Started, callers: int = 10) -> Generator[Asked]:
    """Ask for the version all the time, in a thread of its own."""
    log = Asked(command)

    async def ask() -> None:
        async with Fabric.connect(node.nats_url) as connected:
            while not log.done.is_set():
                try:
                    log.answers.append(await connected.agent("changing").call("version"))
                except FabricError as failure:
                    log.failures.append(failure)

    async def all_ask() -> None:
        await asyncio.gather(*(ask() for _ in range(callers)))

    thread = threading.Thread(target=lambda: asyncio.run(all_ask()))
    thread.start()
    try:
        yield log
    finally:
        log.done.set()
        thread.join()


def test_new_code_replaces_the_workers_without_a_failed_call_and_broken_code_does_not(
    node: Up, server: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with worker(server, "-n", "2", "--reload", folder=elsewhere, env=node.env, cwd=elsewhere) as command:
        with asked(node, command) as log:
            log.await_only(1)
            server.write_text(SERVER % 2)
            log.await_only(2)
            server.write_text("def broken(:\n")
            command.until_said(f"the workers as they were: {server} is not valid Python")
            log.await_only(2)
            server.write_text(SERVER % 3)
            log.await_only(3)
        assert not log.failures
        assert command.stop() == 0
    assert "Traceback" not in command.said


def test_a_change_while_the_first_workers_start_and_one_that_python_would_not_notice_are_noticed(
    node: Up, server: Path, tmp_path: Path
) -> None:
    server.write_text(
        "import pathlib, time\n"
        "pathlib.Path('begun').touch()\n"
        "while not pathlib.Path('changed').exists(): time.sleep(0.01)\n" + SERVER % 1
    )
    env = {**node.env, "PYTHONDONTWRITEBYTECODE": ""}
    with started("worker", "--reload", server, folder=tmp_path, env=env, cwd=tmp_path) as command:
        command.until((tmp_path / "begun").exists, what="the beginning of the import")
        server.write_text(SERVER % 2)
        (tmp_path / "changed").touch()
        with asked(node, command) as log:
            log.await_only(2)
            second = server.stat().st_mtime_ns
            server.write_text(SERVER % 3)
            os.utime(server, ns=(second, second))  # of the same second, and the same size
            log.await_only(3)


def test_a_worker_that_crashes_comes_back_later_each_time_until_its_code_is_mended(
    node: Up, server: Path, tmp_path: Path
) -> None:
    with worker(server, folder=tmp_path, env=node.env, cwd=tmp_path) as command:
        server.write_text("import os\nos._exit(7)\n")
        signal_part(command.pid, "server-1", signal.SIGKILL)
        command.until_said("exited with code 7", times=4)
        waits = [float(each) for each in re.findall(r"in (\d+\.\d) s", command.said)]
        assert waits[0] <= 0.1
        assert waits[3] >= 0.4  # 0.8 s, less up to a half by chance
        server.write_text("def broken(:\n")
        command.until_said(f"exited with code 2: {server} is not valid Python")
        server.write_text(SERVER % 2)
        wait_until(lambda: fabric("call", "changing", "version", env=node.env).out == "2\n", what="an answer")
        assert command.stop() == 0
    assert "Traceback" not in command.said


def test_a_pool_told_to_stop_finishes_what_it_began(node: Up, server: Path, tmp_path: Path) -> None:
    with (
        worker(server, "-n", "2", folder=tmp_path, env=node.env, cwd=tmp_path) as command,
        started("call", "changing", "linger", "seconds=2", folder=tmp_path, env=node.env) as call,
    ):
        call.until((tmp_path / "begun").exists, what="the beginning of the call")
        pool = {process.pid for process in command.family()}
        assert pool & listed(node)
        assert command.stop() == 0
        assert call.process.wait(20) == 0
        assert call.said == "done at last\n"
        wait_until(lambda: not pool & listed(node), seconds=3, what="the end of its leases: it said goodbye")


def listed(node: Up) -> set[int]:
    """The process ids of all instances that `fabric ps` shows."""
    agents = fabric("ps", "--json", env=node.env).json["agents"]
    return {instance["pid"] for agent in agents for instance in agent["instances"]}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os\nos._exit(7)\n", ("exited with code 7 before it was ready",)),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", ("was killed by SIGSEGV before it was ready",)),
    ],
    ids=["exit", "signal"],
)
def test_a_worker_that_dies_at_import_is_told(node: Up, server: Path, code: str, words: tuple[str, ...]) -> None:
    server.write_text(code)
    fabric("worker", server, env=node.env).refused(1, *words)


def test_a_worker_that_cannot_begin_tells_what_its_code_raised(node: Up, server: Path) -> None:
    server.write_text(
        "from contextlib import asynccontextmanager\n"
        "from fabric_sdk import Agent\n"
        "@asynccontextmanager\n"
        "async def lifespan(fabric):\n"
        "    raise ConnectionError('the database is away')\n"
        "    yield\n"
        "agent = Agent('x', lifespan=lifespan)\n"
    )
    done = fabric("worker", server, env=node.env)
    assert done.code == 1
    assert "cannot be served: ConnectionError: the database is away" in done.err
    assert "Traceback" not in done.err


def test_a_worker_that_is_told_to_stop_while_it_still_imports_ends_at_once(
    node: Up, server: Path, tmp_path: Path
) -> None:
    server.write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(1000)\n")
    with started("worker", server, folder=tmp_path, env=node.env, cwd=tmp_path) as command:
        command.until((tmp_path / "begun").exists, what="the beginning of the import")
        pid = part(command.pid, "server-1")
        assert pid is not None
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(5) == 130
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
