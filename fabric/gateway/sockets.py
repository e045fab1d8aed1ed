"""The socket that a gateway listens on, and room for the connections to it.

`fabric up` makes the socket, so that it outlives a gateway that dies.

Above: `replicas`, `process`. Below: the operating system. No web server is loaded for it.
"""

from __future__ import annotations

import logging
import resource
import socket
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError

log = logging.getLogger(__name__)

_SPARE: Final = 128
"""File descriptors that are not for clients: NATS, logs, and connections accepted while others are being closed."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: the port is taken, or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as taken:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {taken.strerror or taken}",
            fix="choose another with --port, 0 for any free one",
        ) from None
    listener.set_inheritable(True)
    return listener


def room_for(connections: int) -> int:
    """How many connections may be open at once: so many, or as many as this process gets file descriptors for.

    Without a descriptor to spare nobody could be accepted, not even to be refused. The soft limit is raised as far as
    it is needed, and no further: some programs still walk through all descriptors there may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    wanted = connections + _SPARE
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        soft = most
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = max(1, min(connections, soft - _SPARE))
    if room < connections:
        log.warning("room for %d connections instead of %d: raise `ulimit -n` to %d", room, connections, wanted)
    return room
