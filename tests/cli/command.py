"""The `fabric` command as a user runs it: to its end, or in the background until the test is done with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from support.running import FABRIC, Running, wait_until

from fabric.process import guard

HELLO = Path(__file__).parent.parent / "agents" / "hello.py"
BARE = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
"""An environment that names no fabric, and in which none is found by chance."""
BARE["XDG_STATE_HOME"] = BARE["XDG_CONFIG_HOME"] = os.devnull

_MARKS = {"gateway": "fabric.gateway.process", "nats-server": "/nats-server", "valkey-server": "/valkey-server"}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which has to be one JSON document."""
        return json.loads(self.out)

    def refused(self, code: int, *words: str) -> None:
        """Hold it to be a clear refusal: this exit code, one error with all these words, and no traceback."""
        said = self.out + self.err
        assert self.code == code, said
        assert said.count("error:") == 1, said
        assert "Traceback" not in said, said
        assert not [word for word in words if word not in said], said


def fabric(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run `fabric` with these arguments to its end."""
    done = subprocess.run(
        [FABRIC, *arguments],
        env={**BARE, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=40,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass
class Started:
    """A command that runs, and the file with all it has said."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.output.read_text()

    def until(self, condition: Callable[[], object], *, seconds: float = 40.0, what: str = "the condition") -> None:
        """Wait for a condition; fail with what was said, and at once if the command ends before."""
        try:
            wait_until(lambda: self.process.poll() is not None or condition(), seconds=seconds, what=what)
        except AssertionError as late:
            raise AssertionError(f"{late}; it has said:\n{self.said}") from None
        assert self.process.poll() is None or condition(), f"it ended with {self.process.returncode}:\n{self.said}"

    def until_said(self, words: str, *, times: int = 1, seconds: float = 40.0) -> None:
        """Wait until it has said this so many times."""
        self.until(lambda: self.said.count(words) >= times, seconds=seconds, what=f"{words!r}, {times} times,")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(50)

    def family(self) -> set[psutil.Process]:
        """It and every process below it."""
        return family(self.pid)


@contextmanager
def started(
    *arguments: str | Path, folder: Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Generator[Started]:
    """`fabric` with these arguments in the background; its output goes to a file in `folder`. Gone at the end."""
    output = folder / f"output-{time.monotonic_ns()}"
    with output.open("wb") as file:
        command = [*tied(), FABRIC, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**BARE, **(env or {})}, cwd=cwd
        )
    try:
        yield Started(process, output)
    finally:
        process.terminate()  # in order, so that it clears up behind itself; all tests that ask how it ends do so before
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


@contextmanager
def worker(*arguments: str | Path, folder: Path, env: dict[str, str], cwd: Path | None = None) -> Generator[Started]:
    """`fabric worker` with these arguments, once all of its workers take calls."""
    ready = folder / f"worker-{time.monotonic_ns()}"
    with started("worker", "--ready-file", ready, *arguments, folder=folder, env=env, cwd=cwd) as command:
        command.until(ready.exists, what="the worker's readiness")
        yield command


@dataclass
class Up(Running):
    """A running fabric, and the command that runs it."""

    command: Started

    @property
    def env(self) -> dict[str, str]:
        """Added to a bare environment, it makes `fabric` commands talk to this fabric."""
        return {"FABRIC_NATS_URL": self.nats_url}


@contextmanager
def up(*arguments: str | Path, folder: Path, env: dict[str, str] | None = None) -> Generator[Up]:
    """`fabric up` with these arguments on a free port, once all is ready."""
    ready = folder / f"up-{time.monotonic_ns()}"
    with started("up", "--port", "0", "--ready-file", ready, *arguments, folder=folder, env=env) as command:
        command.until(ready.exists, what="the fabric's readiness")
        yield Up(**json.loads(ready.read_text()), process=command.process, command=command)


def tied() -> list[str]:
    """What makes a command end with this process: a test that runs out of time ends it without any clearing up."""
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", str(Path(guard.__file__)), "prctl", str(os.getpid()), ""]


def family(pid: int) -> set[psutil.Process]:
    """A process and every one below it."""
    head = psutil.Process(pid)
    return {head, *head.children(recursive=True)}


def alive(processes: set[psutil.Process]) -> set[psutil.Process]:
    """Those that run; the dead whom nobody reaped yet do not."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return {process for process in processes if runs(process)}


def part(head: int, name: str) -> int | None:
    """The process id, now, of a part below `head`: `nats-server`, `valkey-server`, `gateway`, or `<pool>-<number>`."""
    mark = _MARKS.get(name, f"/{name}.ready")
    for process in family(head):
        try:
            if any(mark in argument for argument in process.cmdline()):
                return process.pid
        except psutil.NoSuchProcess:
            continue
    return None


def signal_part(head: int, name: str, number: signal.Signals) -> int:
    """Send a signal to a part; its process id."""
    pid = part(head, name)
    assert pid is not None, f"{name} does not run"
    os.kill(pid, number)
    return pid
