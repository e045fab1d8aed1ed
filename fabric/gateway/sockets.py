"""The socket that a gateway listens on; `fabric up` makes it, so that it outlives a gateway that dies.

Above: `node`, `process`. Below: the operating system. No web server is loaded for it.
"""

from __future__ import annotations

import socket

from fabric_sdk.contracts.errors import ConfigurationError


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
