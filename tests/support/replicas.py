"""Gateway processes of one fabric, each on a port of its own, which a test may kill and start again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import httpx

from support.nats_server import HOST, free_port, tied
from support.running import Running, wait_until


class Replica:
    """One gateway."""

    def __init__(self, running: Running, env: dict[str, str]) -> None:
        self.port = free_port()
        token = {"FABRIC_TOKEN": running.token} if running.token else {"FABRIC_ANONYMOUS": "true"}
        own = {"FABRIC_NATS_URL": running.nats_url, "FABRIC_PORT": str(self.port), "FABRIC_LOG_LEVEL": "warning"}
        self._env = {**os.environ, **own, **token, **env}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/mcp"

    def start(self) -> None:
        """Start it, on the same port each time."""
        assert self._process is None, "it runs already"
        command = [*tied(), sys.executable, "-m", "fabric.gateway.process"]
        self._process = subprocess.Popen(command, env=self._env)

    @property
    def ready(self) -> bool:
        """Whether it serves calls."""
        assert self._process is not None
        assert self._process.poll() is None, "it ended"
        try:
            return httpx.get(f"http://{HOST}:{self.port}/readyz", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; its exit code, once it has ended."""
        assert self._process is not None
        process, self._process = self._process, None
        process.terminate()
        return process.wait(40)


@contextmanager
def replicas(running: Running, count: int, **env: str) -> Generator[list[Replica]]:
    """So many gateways, all ready."""
    started = [Replica(running, env) for _ in range(count)]
    try:
        for each in started:
            each.start()
        until_ready(started)
        yield started
    finally:
        for each in started:
            each.kill()


def until_ready(several: Iterable[Replica]) -> None:
    """Wait until all of them serve calls."""
    for each in several:
        wait_until(lambda each=each: each.ready, what="the readiness of a gateway")
