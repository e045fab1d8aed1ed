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
from fabric.observability.metrics_page import page_of_all
from fabric.observability.metrics_socket import RUN
from fabric.pool.specs import PoolSpec, labels, mistakes_told, with_mistakes, worker_specs
from fabric.process import Copies, OnEvent, Supervisor
from fabric.settings import NATS_SYSTEM_URL, Settings
from fabric.whereabouts import Whereabouts
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
    processes: int = 1
    """Worker processes for each pool."""
    gateways: int = 1
    """Gateway processes behind the one port."""
    ephemeral: bool = False
    """Keep nothing on disk after the end."""


@asynccontextmanager
async def run_node(settings: Settings, plan: NodePlan, on_event: OnEvent) -> AsyncGenerator[Whereabouts]:
    """Start everything; yields once all is ready, and stops everything at the end.

    Raises:
        ConfigurationError: the data folder, a port, a URL or a target is not usable.
        ProcessStartError: a part did not become ready.
    """
    async with _folder(settings, plan) as folder:
        with gateways(settings.host, settings.port) as (listener, replicas):
            run, port = folder.inside("run"), int(listener.getsockname()[1])
            async with Supervisor(with_mistakes(on_event, run)) as supervisor:
                with page_of_all(supervisor, run, settings.metrics_host, settings.metrics_port or 0) as metrics_port:
                    with mistakes_told(run):
                        found = await _start(supervisor, folder, settings, plan, replicas, port)
                    found = replace(found, metrics_url=_url(settings.metrics_host, metrics_port, "/metrics"))
                    found.publish(folder)
                    try:
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
) -> Whereabouts:
    nats_url, redis_url = await _brokers(supervisor, folder, settings)
    token = None if settings.anonymous else _token(folder, settings)
    host = settings.host
    # What happens to processes is told by the supervisor; of the rest, warnings are enough unless asked for more.
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    shared = {"FABRIC_NATS_URL": nats_url, "FABRIC_LOG_LEVEL": level}
    private = shared | {"FABRIC_REDIS_URL": redis_url}
    run = folder.inside("run")

    await Copies(supervisor, worker_specs(_REGISTRY, run=run, env=private)).scale(1)
    audited = {NATS_SYSTEM_URL: settings.nats_system_url} if settings.nats_system_url else {}
    ruled = {"FABRIC_POLICY": str(settings.policy)} if settings.policy else {}
    gateway = Copies(supervisor, replicas(_gateway_env(settings, shared, token) | {RUN: str(run)}))
    noted = {"FABRIC_AUDIT": settings.audit}
    platform = Copies(supervisor, worker_specs(_PLATFORM, run=run, env=shared | audited | ruled | noted))
    own = (_REGISTRY, _PLATFORM)
    pools = zip(plan.pools, labels((*own, *plan.pools))[len(own) :], strict=True)
    copies = [Copies(supervisor, worker_specs(pool, run=run, env=shared, label=label)) for pool, label in pools]
    # All at once, as imports are most of it; pools come last here, so that they are stopped first.
    await asyncio.gather(
        gateway.scale(plan.gateways), platform.scale(1), *(each.scale(plan.processes) for each in copies)
    )
    await _listed(len(plan.pools), host, port)

    return Whereabouts(
        mcp_url=_url(host, port, "/mcp"),
        nats_url=nats_url,
        redis_url=redis_url,
        token=token,
        pid=os.getpid(),
        pids={status.name: status.pid for status in supervisor.statistics() if status.pid is not None},
    )


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


def _gateway_env(settings: Settings, shared: dict[str, str], token: str | None) -> dict[str, str]:
    given = settings.model_dump(mode="json", exclude_none=True, include=_GATEWAY_SETTINGS)
    env = {f"FABRIC_{name.upper()}": _as_text(value) for name, value in given.items() if value not in ([], "")}
    return env | shared | ({"FABRIC_TOKEN": token} if token else {})


_GATEWAY_SETTINGS: Final = {
    "host",
    "port",
    "anonymous",
    "public_url",
    "jwt_issuer",
    "jwt_audience",
    "jwt_jwks_url",
    "jwt_roles_claim",
    "policy",
    "limits",
    "audit",
    "root",
    "call_timeout",
    "max_body",
    "max_header",
    "max_concurrent",
    "max_connections",
    "client_timeout",
    "allowed_hosts",
    "allowed_origins",
}


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType]


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
