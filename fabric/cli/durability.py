"""What `fabric doctor` finds of the broker's durable half: is it there, does it sync, is it full?

Above: `doctor`. Below: `fabric.durable`, and the server's own HTTP monitor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fabric.cli.connection import NO_JETSTREAM, connected, nats_url
from fabric.cli.times import brief
from fabric.durable.replicas import audit
from fabric.durable.server import Fill, fills, server_id
from fabric.embedded import probe_nats
from fabric.embedded.wire import UnexpectedReply, http_status
from fabric.whereabouts import Whereabouts
from fabric_sdk import FabricError
from fabric_sdk.jetstream import replicas as copies
from fabric_sdk.transports.nats import NatsTransport

_MONITOR_PORT: Final = 8222
"""NATS's usual one."""
_FULL: Final = 0.8
_SYNC: Final = "`sync_interval: always` belongs into the `jetstream` block of its configuration"


class Doubt(FabricError):
    """Something may be wrong, or cannot be looked at."""


async def syncs(data: Path | None, monitor: str | None) -> str:
    """Whether what is acknowledged is on the disk."""
    url = nats_url(data)
    if not (await probe_nats(url)).jetstream:
        raise FabricError("the NATS server runs without JetStream: no tasks, no events, no schedules", fix=NO_JETSTREAM)
    found = Whereabouts.of(data)
    if found is not None and found.nats_url == url and "nats-server" in found.pids:
        return "the private server syncs before it acknowledges"  # it was started with a configuration of ours
    async with connected(data) as fabric:
        own = await server_id(fabric)
    said = await _monitored(monitor or f"http://{urlsplit(url.partition(',')[0]).hostname}:{_MONITOR_PORT}")
    if said is None or said.get("server_id") != own:
        raise Doubt(
            "whether the server syncs before it acknowledges cannot be asked from here",
            fix=f"{_SYNC}; if its HTTP monitor is on (`http: {_MONITOR_PORT}`), name it: --nats-monitor http://HOST:PORT",
        )
    config: dict[str, Any] = said.get("jetstream", {}).get("config", {})
    if not config.get("sync_always"):
        seconds = config.get("sync_interval", 0) / 1e9
        raise Doubt(
            "the server acknowledges what is not on the disk yet: when its machine fails, up to the last "
            f"{brief(seconds)} of accepted tasks and events are lost",
            fix=_SYNC,
        )
    return "the server syncs before it acknowledges"


async def replicas(url: str) -> str:
    """Whether, as a user of the system account sees it, every replica of every stream holds what the others hold."""
    system = await NatsTransport.connect(url)
    try:
        alarms = await audit(system, between=1.0)
    finally:
        await system.close()
    if alarms:
        raise FabricError("; ".join(map(str, alarms)), fix="stop that server, remove its copy, and let it be made anew")
    return "every replica holds what the others hold"


async def streams(data: Path | None) -> str:
    """How full the streams are, and whether each is on as many servers as it has to be."""
    if not (await probe_nats(nats_url(data))).jetstream:
        raise Doubt("not known, as there is no JetStream")
    async with connected(data) as fabric:
        found = await fills(fabric)
    if full := [each for each in found if each.share > _FULL]:
        raise Doubt(
            "; ".join(map(_told, full)),
            fix="a full stream refuses what is new: add workers, purge dead letters, or raise its limit "
            f"(`nats stream edit {full[0].name}`)",
        )
    few = [each for each in found if each.name != "account" and each.replicas < (copies.stated() or 1)]
    if few:
        raise Doubt(
            "; ".join(f"{each.name} is kept on {each.replicas}, not on {copies.stated()} servers" for each in few),
            fix=f"`nats stream edit {few[0].name} --replicas {copies.stated()}`, once all servers are there",
        )
    return "; ".join(map(_told, found)) or "none yet: each is made when it is first needed"


def _told(fill: Fill) -> str:
    share = f", {fill.share:.0%} full" if fill.most_size > 0 or fill.most_messages > 0 else ""
    return f"{fill.name}: {fill.messages} messages, {fill.size / 1024**2:.1f} MiB{share}"


async def _monitored(url: str) -> dict[str, Any] | None:
    """What a server's HTTP monitor says of it; `None` where there is none."""
    at = urlsplit(url)
    try:
        status, body = await http_status(at.hostname or "127.0.0.1", at.port or _MONITOR_PORT, "/varz")
        return json.loads(body) if status == 200 else None
    except (OSError, UnexpectedReply, ValueError):
        return None
