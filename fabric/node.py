"""One whole fabric on one machine: what `fabric up` runs. The composition root; no other file builds all of it.

Above: the command line. Below: embedded servers, supervision, gateway, registry. Every part is a process of its own
under one supervisor: brokers first, then the registry, then at once the gateway, the platform's agents and the user's
pools; stopped in reverse, the pools before the gateway.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fabric.embedded import DataFolder, ephemeral_data_folder, open_data_folder, probe_nats, probe_redis
from fabric.embedded.nats_server import start_nats
from fabric.embedded.valkey_server import start_valkey
from fabric.gateway.replicas import GatewaySpecs, gateway_ready, gateways
from fabric.live import Announcer, LiveSettings
from fabric.observability.metrics_page import page_of_all
from fabric.pool.sizes import followed
from fabric.pool.specs import PoolSpec, labels, mistakes_told, with_mistakes, worker_specs
from fabric.process import Copies, OnEvent, Supervisor
from fabric.settings import NATS_SYSTEM_URL, Settings
from fabric.settings.passing import RUN, LiveFile, fixed
from fabric.whereabouts import Whereabouts
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import ConfigurationError

_REGISTRY: Final = PoolSpec(target="fabric.registry.service:build", name="registry")
_PLATFORM: Final = PoolSpec(target="fabric.platform:build", name="durable")
_LOOPBACK: Final = "127.0.0.1"
_LISTED_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What to start beside the platform itself."""

    pools: Sequence[PoolSpec] = ()
    gateways: int = 1
    """Gateway processes behind the one port."""
    ephemeral: bool = False
    """Keep nothing on disk after the end."""


@dataclass(frozen=True, slots=True)
class _Started:
    """What has to be known of what runs."""

    found: Whereabouts
    pools: Mapping[str, Copies]
    """Those of the configuration, by their names there."""


@asynccontextmanager
async def run_node(live: LiveSettings, plan: NodePlan, on_event: OnEvent) -> AsyncGenerator[Whereabouts]:
    """Start everything; yields once all is ready, follows the configuration, and stops everything at the end.

    Raises:
        ConfigurationError: the data folder, a port, a URL or a target is not usable.
        ProcessStartError: a part did not become ready.
    """
    settings = live.settings
    async with _folder(settings, plan) as folder:
        with gateways(settings.host, settings.port) as (listener, replicas):
            run, port = folder.inside("run"), int(listener.getsockname()[1])
            async with Supervisor(with_mistakes(on_event, run)) as supervisor:
                file = LiveFile(run, settings)
                with page_of_all(supervisor, run, settings.metrics_host, settings.metrics_port or 0) as metrics_port:
                    with mistakes_told(run):
                        started = await _start(supervisor, folder, settings, plan, replicas, port, file.env)
                    metrics_url = _url(settings.metrics_host, metrics_port, "/metrics")
                    found = replace(started.found, metrics_url=metrics_url)
                    found.publish(folder)
                    try:
                        announcer = Announcer("fabric up", lambda: Fabric.connect(found.nats_url))
                        async with followed(live, started.pools, file, run, announcer):
                            yield found
                    finally:
                        found.withdraw(folder)


@asynccontextmanager
async def run_broker(data: Path | None, on_event: OnEvent) -> AsyncGenerator[tuple[DataFolder, str]]:
    """Start NATS alone, on the data of a fabric that does not run; yields the folder and the URL.

    Raises:
        DataFolderInUse: the fabric runs.
        DataFolderError, ProcessStartError: its data cannot be used.
    """
    async with open_data_folder(data) as folder, Supervisor(on_event) as supervisor:
        yield folder, (await start_nats(supervisor, folder)).url


def _folder(settings: Settings, plan: NodePlan) -> AbstractAsyncContextManager[DataFolder]:
    return ephemeral_data_folder() if plan.ephemeral else open_data_folder(settings.data)


async def _start(
    supervisor: Supervisor,
    folder: DataFolder,
    settings: Settings,
    plan: NodePlan,
    replicas: Callable[[Mapping[str, str]], GatewaySpecs],
    port: int,
    live_env: Mapping[str, str],
) -> _Started:
    nats_url, redis_url = await _brokers(supervisor, folder, settings)
    token = None if settings.anonymous else _token(folder, settings)
    host = settings.host
    run = folder.inside("run")
    shared = {**fixed(settings, secrets=False), **live_env, "FABRIC_NATS_URL": nats_url}
    door = {**fixed(settings, secrets=True), **shared, **({"FABRIC_TOKEN": token} if token else {})}
    audited = {NATS_SYSTEM_URL: settings.nats_system_url} if settings.nats_system_url else {}

    await Copies(supervisor, worker_specs(_REGISTRY, run=run, env=shared | {"FABRIC_REDIS_URL": redis_url})).scale(1)
    gateway = Copies(supervisor, replicas(door | {RUN: str(run)}))
    platform = Copies(supervisor, worker_specs(_PLATFORM, run=run, env=shared | audited))
    own = (_REGISTRY, _PLATFORM)
    named = zip(plan.pools, labels((*own, *plan.pools))[len(own) :], strict=True)
    pools = [(pool, Copies(supervisor, worker_specs(pool, run=run, env=shared, label=label))) for pool, label in named]
    # All at once, as imports are most of it; pools come last here, so that they are stopped first.
    await asyncio.gather(
        gateway.scale(plan.gateways), platform.scale(1), *(copies.scale(pool.processes) for pool, copies in pools)
    )
    await _listed(len(plan.pools), host, port)

    found = Whereabouts(
        mcp_url=_url(host, port, "/mcp"),
        nats_url=nats_url,
        redis_url=redis_url,
        token=token,
        pid=os.getpid(),
        pids={status.name: status.pid for status in supervisor.statistics() if status.pid is not None},
    )
    return _Started(found, {pool.key: copies for pool, copies in pools if pool.key is not None})


def _url(host: str, port: int, path: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


async def _brokers(supervisor: Supervisor, folder: DataFolder, settings: Settings) -> tuple[str, str]:
    """The URLs of NATS and Redis: the user's own, found usable, or those of private servers."""

    async def nats() -> str:
        if settings.nats_url is None:
            return (await start_nats(supervisor, folder)).url
        await probe_nats(settings.nats_url)
        return settings.nats_url

    async def redis() -> str:
        if settings.redis_url is None:
            return (await start_valkey(supervisor, folder)).url
        await probe_redis(settings.redis_url)
        return settings.redis_url

    nats_url, redis_url = await asyncio.gather(nats(), redis())
    return nats_url, redis_url


async def _listed(agents: int, host: str, port: int) -> None:
    """Wait until the gateway shows so many agents: a client that connects now finds everything."""
    host = _LOOPBACK if host in ("0.0.0.0", "::") else host  # a wildcard address is listened on, not spoken to
    for _ in range(int(_LISTED_SECONDS / _POLL_SECONDS)):
        if (await gateway_ready(host, port))["agents"] >= agents:
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise ConfigurationError(
        f"the gateway does not show {agents} agents after {_LISTED_SECONDS:g} s", fix="give each pool a name of its own"
    )


def _token(folder: DataFolder, settings: Settings) -> str:
    """The user's token, or one made once for each data folder."""
    if settings.token is not None:
        return settings.token.get_secret_value()
    if (kept := folder.read("token")) is None:
        kept = secrets.token_urlsafe(32)
        folder.write("token", kept)
    return kept
