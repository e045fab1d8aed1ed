"""`fabric doctor`: looks at every part and says what to do about those that are unwell.

Above: `main`. Below: settings, probes, `durability`, and the registry's catalogue. Each look fails by itself.
"""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from fabric.cli.connection import catalogue, connected, here, nats_url, there_are
from fabric.cli.console import Exit, out, print_json, run, seen
from fabric.cli.durability import Doubt, replicas, streams, syncs
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.ps import disagreements
from fabric.cli.variables import without_effect
from fabric.embedded import probe_nats, probe_redis
from fabric.embedded.binaries import nats_binary, valkey_binary
from fabric.embedded.wire import http_status
from fabric.named_files import check
from fabric.settings import Settings, SettingsError, load_settings
from fabric.settings.loading import gather, resolve
from fabric.settings.places import find
from fabric_sdk import FabricError
from fabric_sdk.contracts.address import shown
from fabric_sdk.contracts.description import Json
from fabric_sdk.contracts.errors import ConfigurationError

_ELSEWHERE: Final = "not known from here: no fabric on this data folder uses that NATS server"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    check: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    fix: str | None = None


def doctor(
    monitor: Annotated[
        str | None, typer.Option("--nats-monitor", help="NATS's HTTP monitor. [port 8222 of its host]")
    ] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Check this machine and the running fabric."""
    findings = run(_examine(data, monitor))
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            colour = {"ok": "green", "warning": "yellow", "failed": "red"}[finding.state]
            detail = seen(finding.detail, but="\n").replace("\n", f"\n{'':20}")
            out.print(f"[{colour}]{finding.state:8}[/] {finding.check:10} {escape(detail)}", soft_wrap=True)
            if finding.fix:
                out.print(f"{'':20}[dim]fix:[/] {escape(seen(finding.fix))}", soft_wrap=True)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(int(Exit.FAILED))


async def _examine(data: Path | None, monitor: str | None) -> list[Finding]:
    system_url = _system_url()
    looks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("python", _python),
        ("binaries", _binaries),
        ("settings", _settings),
        ("nats", lambda: _nats(data)),
        ("jetstream", lambda: syncs(data, monitor)),
        ("streams", lambda: streams(data)),
        *([("replicas", lambda: replicas(system_url))] if system_url else []),
        ("redis", lambda: _redis(data)),
        ("registry", lambda: _registry(data)),
        ("agents", lambda: _agents(data)),
        ("gateway", lambda: _gateway(data)),
    ]
    return [await _look(name, look) for name, look in looks]


def _system_url() -> str | None:
    with suppress(ConfigurationError):  # what is wrong with the settings, the look at them tells
        return load_settings().nats_system_url
    return None


async def _look(name: str, look: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "ok", await look())
    except Doubt as doubt:
        return Finding(name, "warning", doubt.message, doubt.fix)
    except SettingsError as failure:
        if name != "settings":  # each look needs them; that at them tells what is wrong, once
            return Finding(name, "warning", "not known, as the settings are wrong")
        return Finding(name, "failed", failure.message, "mend them, by `fabric config check`")
    except FabricError as failure:
        return Finding(name, "failed", failure.message, failure.fix)
    except (OSError, RuntimeError) as failure:
        return Finding(name, "failed", str(failure) or type(failure).__name__)


async def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"


async def _binaries() -> str:
    return f"{nats_binary().name}, {valkey_binary().name} are installed"


async def _settings() -> str:
    found = resolve(gather(find()), {})
    check(Settings.model_construct(), found.settings)
    if unread := without_effect():
        hints = "; ".join(f"{name}: {hint}" for name, hint in unread.items())
        raise Doubt(f"no setting, and so without effect: {', '.join(unread)}", fix=hints)
    return f"{found.file} and the environment's FABRIC_ variables are valid".removeprefix("None and ")


async def _nats(data: Path | None) -> str:
    url = nats_url(data)
    facts = await probe_nats(url)
    return f"{shown(url)} runs nats-server {facts.version}"


async def _redis(data: Path | None) -> str:
    settings, connection = load_settings(), here(data)
    url = settings.redis_url or (connection.redis_url if connection else None)
    if url is None:
        raise Doubt(f"{_ELSEWHERE}, and FABRIC_REDIS_URL is not set")
    facts = await probe_redis(url)
    return f"{shown(url)} runs version {facts.version}"


async def _registry(data: Path | None) -> str:
    async with connected(data) as fabric:
        found = await catalogue(fabric)
    instances = sum(len(agent["instances"]) for agent in found["agents"])
    if found["revision"] == 0:
        raise FabricError(
            "the registry answers from the bus: its Redis is away", fix="start Redis; leases return by themselves"
        )
    return f"{len(found['agents'])} agents, {instances} instances"


async def _agents(data: Path | None) -> str:
    try:
        async with connected(data) as fabric:
            agents: list[Json] = (await catalogue(fabric))["agents"]
    except FabricError:
        raise Doubt("not known, as no registry answers") from None
    root, names = load_settings().root, [agent["name"] for agent in agents]
    if root is not None and root not in names:
        raise Doubt(f"FABRIC_ROOT is {root!r}, and there is no such agent", fix=there_are(root, names))
    if different := disagreements(agents):
        raise Doubt("; ".join(different), fix="finish the deployment, or stop the instances that should not be there")
    return "the instances of each agent offer the same"


async def _gateway(data: Path | None) -> str:
    connection = here(data)
    if connection is None:
        raise Doubt(_ELSEWHERE)
    at = urlsplit(connection.mcp_url)
    status, body = await http_status(at.hostname or "127.0.0.1", at.port or 80, "/readyz")
    if status != 200:
        raise FabricError(f"/readyz says {status}: {body.strip()[:200]}", fix="see the output of `fabric up`")
    return f"{connection.mcp_url} is ready"
