"""The ports of the private servers: free when first chosen, then the same again, so that clients find their way back.

Above: the two servers. Below: `folder`, which remembers them, and `fabric.process`. All ports are on 127.0.0.1.
"""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabric.embedded.folder import DataFolder
from fabric.process import ProcessSpec, ProcessStartError, Supervisor

HOST = "127.0.0.1"

_FILE = "ports.json"
_CANDIDATES = range(20_000, 60_000)
_TRIES = 100
_STARTS = 3
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_ELSEWHERE = (49_152, 65_535)  # macOS and the standard


async def start_on_ports(
    supervisor: Supervisor, folder: DataFolder, names: tuple[str, ...], spec: Callable[[tuple[int, ...]], ProcessSpec]
) -> tuple[int, ...]:
    """Start `spec` with one port for each name and return the ports once it is ready.

    They are the ones of the last time wherever these are free. `spec` is called once more, with other ports, if
    somebody takes one in the moment between choosing and starting. Raises ProcessStartError.
    """
    for starts_left in reversed(range(_STARTS)):
        ports = _choose(folder, names)
        try:
            await supervisor.start(spec(ports))
        except ProcessStartError:
            if starts_left == 0 or all(is_free(port) for port in ports):
                raise  # the ports are not to blame
        else:
            return ports
    raise AssertionError("the last start returns or raises")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: connections of an earlier run that are still fading must not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _choose(folder: DataFolder, names: tuple[str, ...]) -> tuple[int, ...]:
    remembered = _remembered(folder)
    chosen = dict(remembered)
    for name in names:
        if name not in chosen or not is_free(chosen[name]):
            chosen[name] = _new_port(set(chosen.values()))
    if chosen != remembered:
        folder.write(_FILE, json.dumps(chosen))
    return tuple(chosen[name] for name in names)


def _remembered(folder: DataFolder) -> dict[str, int]:
    try:
        said: dict[str, Any] = json.loads(folder.read(_FILE) or "{}")
        return {name: int(port) for name, port in said.items() if 0 < int(port) < 65_536}
    except (ValueError, TypeError, AttributeError):
        return {}  # a lost memory costs the clients of the last run a new address, nothing else


def _new_port(taken: set[int]) -> int:
    """A free port, where there is one outside the range that the kernel gives to outgoing connections.

    Inside it a server that restarts can find its port gone: to any outgoing connection, and above all to its own
    clients, for a client that keeps trying to connect to a port of that range sooner or later meets itself there.
    """
    first, last = _ephemeral_range()
    candidates = [port for port in _CANDIDATES if not first <= port <= last and port not in taken]
    for port in random.sample(candidates, min(_TRIES, len(candidates))):
        if is_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as any_free:
        any_free.bind((HOST, 0))
        return any_free.getsockname()[1]


def _ephemeral_range() -> tuple[int, int]:
    try:
        first, last = re.findall(r"\d+", _EPHEMERAL.read_text())
    except (OSError, ValueError):
        return _EPHEMERAL_ELSEWHERE
    return int(first), int(last)
