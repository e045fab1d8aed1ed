"""A whole fabric for a test, started as a user starts it and gone when the test is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FABRIC = Path(sys.executable).with_name("fabric")


@dataclass
class Running:
    """How to reach a running fabric, and the process that runs it."""

    mcp_url: str
    nats_url: str
    redis_url: str
    token: str | None
    pid: int
    pids: dict[str, int]
    metrics_url: str
    process: subprocess.Popen[bytes]

    @property
    def env(self) -> dict[str, str]:
        """An environment in which `fabric` commands talk to this fabric."""
        return {**os.environ, "FABRIC_NATS_URL": self.nats_url, "FABRIC_REDIS_URL": self.redis_url}


def wait_until(condition: Callable[[], object], *, seconds: float = 20.0, what: str = "the condition") -> None:
    """Return as soon as `condition` is true; fail after `seconds`. The one place where tests poll."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


@contextmanager
def running_fabric(*arguments: str, env: dict[str, str] | None = None) -> Generator[Running]:
    """`fabric up --ephemeral` on free ports with these arguments; stopped by SIGTERM, which must end it with code 0."""
    with tempfile.TemporaryDirectory(prefix="fabric-test-") as folder:
        ready = Path(folder) / "ready.json"
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(FABRIC), "up", "--ephemeral", "--port", "0", "--ready-file", str(ready), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        try:
            wait_until(lambda: ready.exists() or process.poll() is not None, seconds=60, what="fabric up")
            assert ready.exists(), f"fabric up ended with {process.returncode}:\n{log.read_text()}"
            yield Running(**json.loads(ready.read_text()), process=process)
            if process.poll() is None:
                process.terminate()
                assert process.wait(60) == 0, log.read_text()[-4000:]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
