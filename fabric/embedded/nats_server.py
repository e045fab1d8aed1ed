"""A private nats-server: its configuration, its start under a supervisor, its addresses.

Above: `fabric.node`, and tests. Below: `folder`, `credentials`, `ports`, `fabric.process`.
It refuses to know what is sent through it: no stream and no subject is named here.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from fabric.embedded.binaries import nats_binary
from fabric.embedded.credentials import Credentials, load_credentials
from fabric.embedded.folder import DataFolder
from fabric.embedded.ports import HOST, start_on_ports
from fabric.embedded.probe import probe_nats
from fabric.embedded.wire import http_status
from fabric.process import ProcessSpec, Supervisor

MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes that one message may have."""

_USER, _SYSTEM_USER = "fabric", "system"
_MAX_MEMORY = 256 * 1024 * 1024  # bytes for streams that are kept in memory
_SHARE_OF_DISK = 0.8  # of what is free: JetStream then refuses in words, where a full disk makes it go silent
_STARTUP = 120.0  # seconds; it reads its streams back before it is ready, and there may be many
_STORE = "jetstream"  # nats-server names its folder so by itself


@dataclass(frozen=True, slots=True)
class NatsServer:
    """A running private server. The two URLs hold passwords, so `repr` leaves them out."""

    url: str = field(repr=False)
    """For the fabric: account FABRIC, with JetStream."""
    system_url: str = field(repr=False)
    """For watching the server itself: account SYS."""
    monitor_url: str
    """Its HTTP monitor: /healthz, /varz, /jsz …; on this machine only."""
    version: str


async def start_nats(supervisor: Supervisor, folder: DataFolder) -> NatsServer:
    """Start nats-server on its data in `folder`; returns when it is ready.

    Everything that it acknowledged is on the disk: it is told to sync always. Its ports are those of the last time
    wherever they are free, and stay the same while the supervisor restarts it.
    Raises BinaryMissing, DataFolderError, ProcessStartError.
    """
    program = str(nats_binary())
    credentials = load_credentials(folder)
    home = folder.inside("nats")
    most = await asyncio.to_thread(_most_storage, home / _STORE, folder.free)

    def spec(ports: tuple[int, ...]) -> ProcessSpec:
        port, monitor = ports
        folder.write("nats/nats.conf", _configuration(port, monitor, credentials, most))
        return ProcessSpec(
            name="nats-server",
            argv=(program, "-c", "nats.conf"),
            cwd=home,
            log=home / "nats.log",
            probe=lambda: _healthy(monitor),
            startup=_STARTUP,
            descriptors=(folder.lock,),
        )

    port, monitor = await start_on_ports(supervisor, folder, ("nats", "nats-monitor"), spec)
    facts = await probe_nats(f"nats://{HOST}:{port}")
    return NatsServer(
        url=f"nats://{_USER}:{credentials.nats}@{HOST}:{port}",
        system_url=f"nats://{_SYSTEM_USER}:{credentials.nats_system}@{HOST}:{port}",
        monitor_url=f"http://{HOST}:{monitor}",
        version=facts.version,
    )


async def _healthy(monitor: int) -> None:
    status, body = await http_status(HOST, monitor, "/healthz")
    if status != 200:
        raise RuntimeError(f"/healthz says {status}: {body.strip()[:200]}")


def _configuration(port: int, monitor: int, credentials: Credentials, most_storage: int) -> str:
    """The configuration file. It runs in its folder, so paths are relative and need no quoting."""
    quoted = json.dumps
    return f"""\
# Written anew at every start: changes made here are lost.
server_name: "fabric-embedded"
listen: "{HOST}:{port}"
http: "{HOST}:{monitor}"

max_payload: {MAX_PAYLOAD}
max_connections: 8192
write_deadline: "10s"

jetstream {{
  store_dir: "."
  sync_interval: always
  max_mem: {_MAX_MEMORY}
  max_file: {most_storage}
  # Its default of 1000 consumers for each stream counts every watcher of a key-value bucket.
  limits {{ default_max_consumers: -1 }}
}}

accounts {{
  FABRIC {{ jetstream: enabled, users: [ {{ user: "{_USER}", password: {quoted(credentials.nats)} }} ] }}
  SYS {{ users: [ {{ user: "{_SYSTEM_USER}", password: {quoted(credentials.nats_system)} }} ] }}
}}
system_account: "SYS"
"""


def _most_storage(store: Path, free: int) -> int:
    """Bytes that all streams together may take: what they take already, and a share of what is free."""
    taken = 0
    for folder, _, names in os.walk(store):
        taken += sum(Path(folder, name).lstat().st_size for name in names)
    return taken + int(free * _SHARE_OF_DISK)
