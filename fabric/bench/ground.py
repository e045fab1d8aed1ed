"""What a benchmark runs on: private servers, and the processes of both sides, all started as `fabric up` starts them.

Above: `calls`, `durable`, `everything`, `gateway`. Below: `fabric.embedded`, `process`, `pool` and `gateway`. All of it
is under one supervisor: gone when the block ends, and when this process is killed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fabric.embedded import DataFolder, ephemeral_data_folder, start_nats, start_valkey
from fabric.embedded.wire import http_status
from fabric.gateway.sockets import bind
from fabric.pool.ready import ReadyFile
from fabric.pool.specs import PoolSpec, worker_specs
from fabric.process import ProcessSpec, Supervisor
from fabric.settings import PREFIX, Settings
from fabric.settings.passing import LISTEN_FD, LiveFile

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 2048
_ECHO: Final = PoolSpec(target="fabric.bench.echo:agent")
_MANY: Final = PoolSpec(target="fabric.bench.many:build")
_REGISTRY: Final = PoolSpec(target="fabric.registry.service:build", name="registry")
_NO_SETTINGS: Final = {PREFIX + name.upper(): "" for name in Settings.model_fields}
"""What is measured are the defaults, whatever this process's environment and configuration say."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that shows the echo agent."""

    url: str
    token: str = field(repr=False)


class Ground:
    """A NATS server, and whatever is started on it."""

    def __init__(
        self, supervisor: Supervisor, folder: DataFolder, nats_url: str, sockets: ExitStack, env: Mapping[str, str]
    ) -> None:
        self.nats_url = nats_url
        self._supervisor = supervisor
        self._folder = folder
        self._run = folder.inside("run")
        self._sockets = sockets
        defaults = LiveFile(self._run, Settings.model_construct(log_level="warning"))
        self._env = _NO_SETTINGS | defaults.env | {"FABRIC_NATS_URL": nats_url, **env}

    @staticmethod
    @asynccontextmanager
    async def open(**env: str) -> AsyncGenerator[Ground]:
        """A private nats-server in a folder that is removed at the end; `env` is for all that is started on it."""
        async with ephemeral_data_folder() as folder:
            with ExitStack() as sockets:
                async with Supervisor() as supervisor:
                    yield Ground(supervisor, folder, (await start_nats(supervisor, folder)).url, sockets, env)

    @property
    def folder(self) -> Path:
        """Where files may be put until the end."""
        return self._run

    async def start_worker(self) -> None:
        """One worker process that serves the echo agent."""
        await self._supervisor.start(worker_specs(_ECHO, run=self._run, env=self._env)(1))

    async def start_workers(self, *, agents: int, tools: int) -> None:
        """One worker process for each of so many agents with so many tools: `echo`, and others."""

        async def start(name: str) -> None:
            env = self._env | {"BENCH_TOOLS": str(tools), "BENCH_AGENT": name}
            await self._supervisor.start(worker_specs(_MANY, run=self._run, env=env, label=name)(1))

        await asyncio.gather(*map(start, ["echo", *(f"other-{number}" for number in range(1, agents))]))

    async def start_gateway(self, settings: Mapping[str, str] | None = None, *, agents: int = 1) -> Gateway:
        """Registry and gateway; returns once the gateway lists so many agents."""
        given = {PREFIX + name.upper(): value for name, value in (settings or {}).items()}
        valkey = await start_valkey(self._supervisor, self._folder)
        env = self._env | {"FABRIC_REDIS_URL": valkey.url}
        await self._supervisor.start(worker_specs(_REGISTRY, run=self._run, env=env)(1))
        listener = self._listen()
        port: int = listener.getsockname()[1]
        token = secrets.token_urlsafe(32)

        async def probe() -> None:
            status, body = await http_status(_HOST, port, "/readyz")
            if status != 200 or json.loads(body)["agents"] < agents:
                raise RuntimeError(f"/readyz says {status}: {body.strip()[:200]}")

        spec = ProcessSpec(
            name="gateway",
            argv=(sys.executable, "-m", "fabric.gateway.process"),
            env=self._env | given | {"FABRIC_TOKEN": token, LISTEN_FD: str(listener.fileno())},
            probe=probe,
            descriptors=(listener.fileno(),),
        )
        await self._supervisor.start(spec)
        return Gateway(f"http://{_HOST}:{port}/mcp", token)

    async def start_floor_worker(self, size: int) -> None:
        """A process that answers with nats-py alone, in bodies of at least `size` bytes."""
        await self._supervisor.start(self._floor("worker", str(size)))

    async def start_floor_program(self, name: str) -> None:
        """The program in `floors` of this name."""
        await self._supervisor.start(self._floor(name))

    async def start_floor_server(self, name: str, *arguments: str) -> str:
        """The HTTP server in `floors` of this name; returns the URL of its endpoint."""
        listener = self._listen()
        descriptor = listener.fileno()
        await self._supervisor.start(self._floor(name, str(descriptor), *arguments, descriptors=(descriptor,)))
        return f"http://{_HOST}:{listener.getsockname()[1]}/mcp"

    def _floor(self, name: str, *arguments: str, descriptors: tuple[int, ...] = ()) -> ProcessSpec:
        ready = self._run / f"floor-{name}.ready"
        return ProcessSpec(
            name=f"floor-{name}",
            argv=(sys.executable, "-m", f"fabric.bench.floors.{name}", str(ready), *arguments),
            env=self._env,
            probe=ReadyFile(ready).probe,
            descriptors=descriptors,
        )

    def _listen(self) -> socket.socket:
        """A listening socket on a free port, held open until the end."""
        listener = self._sockets.enter_context(bind(_HOST, 0))
        listener.listen(_BACKLOG)
        return listener
