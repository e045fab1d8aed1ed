"""A private valkey-server, the open Redis: its configuration, its start under a supervisor, its address.

Above: `fabric.node`, and tests. Below: `folder`, `credentials`, `ports`, `fabric.process`.
It refuses to know what is kept in it: only the registry does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.embedded.binaries import valkey_binary
from fabric.embedded.credentials import load_credentials
from fabric.embedded.folder import DataFolder
from fabric.embedded.ports import HOST, start_on_ports
from fabric.embedded.probe import log_in, probe_redis
from fabric.embedded.wire import Connection
from fabric.process import ProcessSpec, Supervisor

_STARTUP = 60.0  # seconds; it reads its log of changes back before it is ready
_MAX_MEMORY = 512 * 1024 * 1024  # bytes: some 700,000 registered agents


@dataclass(frozen=True, slots=True)
class ValkeyServer:
    """A running private server. The URL holds the password, so `repr` leaves it out."""

    url: str = field(repr=False)
    version: str


async def start_valkey(supervisor: Supervisor, folder: DataFolder) -> ValkeyServer:
    """Start valkey-server on its data in `folder`; returns when it is ready.

    A crash can cost it the last second of changes; nothing in it is the only copy. Its port is that of the last time
    if it is free, and stays the same while the supervisor restarts it.
    Raises BinaryMissing, DataFolderError, ProcessStartError.
    """
    program = str(valkey_binary())
    password = load_credentials(folder).valkey
    home = folder.inside("valkey")

    def spec(ports: tuple[int, ...]) -> ProcessSpec:
        (port,) = ports
        folder.write("valkey/valkey.conf", _configuration(port, password))
        return ProcessSpec(
            name="valkey-server",
            argv=(program, "valkey.conf"),
            cwd=home,
            log=home / "valkey.log",
            probe=lambda: _healthy(port, password),
            startup=_STARTUP,
            descriptors=(folder.lock,),
        )

    (port,) = await start_on_ports(supervisor, folder, ("valkey",), spec)
    url = f"redis://:{password}@{HOST}:{port}/0"
    facts = await probe_redis(url)
    return ValkeyServer(url=url, version=facts.version)


async def _healthy(port: int, password: str) -> None:
    async with Connection.open(HOST, port) as connection:
        await log_in(connection, "", password)


def _configuration(port: int, password: str) -> str:
    """The configuration file. It runs in its folder, where its data goes by default."""
    return f"""\
# Written anew at every start: changes made here are lost.
bind {HOST}
port {port}
protected-mode yes
requirepass "{password}"
daemonize no

# Changes are appended to a log and synced every second; no snapshots beside it.
appendonly yes
appendfsync everysec
save ""

# At the limit writes are refused: to throw out somebody's lease in silence would be worse.
maxmemory {_MAX_MEMORY}
maxmemory-policy noeviction
"""
