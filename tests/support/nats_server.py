"""A private nats-server for one test or module, which the test may kill, freeze, reconfigure and start again.

It runs the program of the wheel by itself, without the product's supervisor, so that what a test does to it stays done.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fabric.embedded.binaries import nats_binary
from fabric.embedded.ports import is_free
from fabric.process import guard
from support.running import wait_until

HOST = "127.0.0.1"

# Below what the kernel gives to outgoing connections: there, a client that keeps trying to reach a server that is gone
# can meet itself.
_PORTS = range(20_000, 32_000)
# Tests run side by side, and what one has stopped and will start again leaves its port free: each process has its own.
_SIDES = 8
_given: set[int] = set()


class PrivateNats:
    """One nats-server on one port, for as long as `private_nats` is entered."""

    def __init__(self, folder: Path, configuration: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """What the server has written since the first start."""
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Start it; returns when it greets. The port is the same each time."""
        assert self._process is None, "it runs already"
        self._write_configuration()
        with (self._folder / "log").open("ab") as log:
            command = [str(nats_binary()), "-c", "nats.conf"]
            self._process = subprocess.Popen([*tied(), *command], cwd=self._folder, stdout=log, stderr=log)
        wait_until(self._greets, seconds=20, what="the greeting of nats-server")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone. A frozen one goes too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nobody answers on them. Returns when it has stopped."""
        self._signal(signal.SIGSTOP)
        process = psutil.Process(self._running.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, what="the stop of nats-server")

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def configure(self, configuration: str) -> None:
        """Let it reload with another configuration; returns when it has."""
        before = self.log.count("Reloaded server configuration")
        self._configuration = configuration
        self._write_configuration()
        self._signal(signal.SIGHUP)
        wait_until(lambda: self.log.count("Reloaded server configuration") > before, what="the reload of nats-server")

    def _write_configuration(self) -> None:
        listen = f'server_name: "test"\nlisten: "{HOST}:{self.port}"\n'
        (self._folder / "nats.conf").write_text(listen + self._configuration)

    def _signal(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it does not run"
        return self._process

    def _greets(self) -> bool:
        assert self._running.poll() is None, f"nats-server ended:\n{self.log}"
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False


@contextmanager
def private_nats(configuration: str = "") -> Generator[PrivateNats]:
    """A running nats-server with this text in its configuration; gone at the end, whatever was done to it."""
    with tempfile.TemporaryDirectory(prefix="fabric-test-nats-") as folder:
        server = PrivateNats(Path(folder), configuration)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def free_port() -> int:
    """A port that nobody has, and that this process is not given again."""
    side = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SIDES
    mine = _PORTS[side::_SIDES]
    port = next(port for port in random.sample(mine, len(mine)) if port not in _given and is_free(port))
    _given.add(port)
    return port


def tied() -> list[str]:
    """What makes a command end with this process: a test that runs out of time ends it without any clearing up."""
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", str(Path(guard.__file__)), "prctl", str(os.getpid()), ""]
