"""Three nats-servers in one cluster, each of which may be killed, frozen and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from support.nats_server import free_port, tied

from fabric.embedded.binaries import nats_binary

HOST: Final = "127.0.0.1"
_READY_SECONDS: Final = 60.0


class Node:
    """One member of the cluster."""

    def __init__(self, folder: Path, number: int, routes: list[int]) -> None:
        self.name = f"n{number}"
        self.store = folder / f"n{number}" / "js"
        self.port, self.monitor = free_port(), free_port()
        self._folder = folder / self.name
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        shown = ", ".join(f"nats://{HOST}:{route}" for route in routes)
        (self._folder / "nats.conf").write_text(
            f'server_name: {self.name}\nlisten: "{HOST}:{self.port}"\nhttp: "{HOST}:{self.monitor}"\n'
            'jetstream { store_dir: "js", sync_interval: always, max_file: 4GB }\n'
            "accounts { $SYS { users: [{ user: sys, password: sys }] }\n"
            "  SOAK { jetstream: enabled, users: [{ user: soak, password: soak }] } }\nno_auth_user: soak\n"
            f'cluster {{ name: soak, listen: "{HOST}:{routes[number]}", routes: [{shown}] }}\n'
        )

    def start(self) -> None:
        """Start it, or start it again."""
        with (self._folder / "log").open("ab") as log:
            command = [*tied(), str(nats_binary()), "-c", "nats.conf"]
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; after one that ends it, wait until it has."""
        if self._process is None:
            return
        self._process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """The end of what it has written since the first start."""
        return (self._folder / "log").read_text()[-2000:]

    def monitored(self, path: str) -> dict[str, Any]:
        """What its monitor says at `path`."""
        with urllib.request.urlopen(f"http://{HOST}:{self.monitor}{path}", timeout=2) as answer:
            return json.loads(answer.read())

    @property
    def is_ready(self) -> bool:
        """Whether it is healthy and knows a leader."""
        try:
            meta: dict[str, Any] = self.monitored("/jsz").get("meta_cluster") or {}
            return self.monitored("/healthz")["status"] == "ok" and bool(meta.get("leader"))
        except OSError:
            return False


class Cluster:
    """All three."""

    def __init__(self, folder: Path) -> None:
        routes = [free_port() for _ in range(3)]
        self.nodes = [Node(folder, number, routes) for number in range(3)]

    @property
    def url(self) -> str:
        return ",".join(f"nats://{HOST}:{node.port}" for node in self.nodes)

    @property
    def system_url(self) -> str:
        return ",".join(f"nats://sys:sys@{HOST}:{node.port}" for node in self.nodes)

    def wait(self) -> None:
        """Return when all of them are ready."""
        until = time.monotonic() + _READY_SECONDS
        while not all(node.is_ready for node in self.nodes):
            assert time.monotonic() < until, "\n".join(["the cluster is not ready", *(node.log for node in self.nodes)])
            time.sleep(0.1)


@contextmanager
def cluster(folder: Path) -> Generator[Cluster]:
    """A running cluster; gone at the end, whatever was done to it."""
    three = Cluster(folder)
    try:
        for node in three.nodes:
            node.start()
        three.wait()
        yield three
    finally:
        for node in three.nodes:
            node.signal(signal.SIGCONT)
            node.signal(signal.SIGKILL)
