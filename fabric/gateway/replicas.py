"""Gateway processes as a supervisor sees them: any number behind one listening socket, which outlives each of them.

Above: `fabric up`, `fabric gateway --replicas`. Below: `fabric.process`, `sockets`. No web server is loaded for it.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from fabric.embedded.wire import http_status
from fabric.gateway.sockets import bind
from fabric.process import ProcessSpec
from fabric.settings.passing import LISTEN_FD, PROCESS

_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 2048
_GRACE_SECONDS: Final = 35.0
"""SIGTERM to SIGKILL: longer than a gateway takes at worst to end its requests (30 s) and close."""

GatewaySpecs = Callable[[int], ProcessSpec]


@contextmanager
def gateways(host: str, port: int) -> Generator[tuple[socket.socket, Callable[[Mapping[str, str]], GatewaySpecs]]]:
    """The socket that all replicas listen on, and what describes the replica of a number, given its environment.

    Each replica listens on a loopback port of its own, too: by that it is asked how it is.

    Raises:
        ConfigurationError: the port is taken, or the host is not of this machine.
    """
    with ExitStack() as sockets:
        listener = sockets.enter_context(bind(host, port))
        listener.listen(_BACKLOG)  # here, so that clients wait rather than fail while a gateway is restarted

        def specs(env: Mapping[str, str]) -> GatewaySpecs:
            def spec(number: int) -> ProcessSpec:
                own = sockets.enter_context(bind(_LOOPBACK, 0))
                own.listen()
                descriptors = (listener.fileno(), own.fileno())

                async def probe() -> None:
                    await gateway_ready(_LOOPBACK, own.getsockname()[1])

                name = "gateway" if number == 1 else f"gateway-{number}"
                return ProcessSpec(
                    name=name,
                    argv=(sys.executable, "-m", "fabric.gateway.process"),
                    env={**env, PROCESS: name, LISTEN_FD: ",".join(map(str, descriptors))},
                    probe=probe,
                    grace=_GRACE_SECONDS,
                    descriptors=descriptors,
                )

            return spec

        yield listener, specs


async def gateway_ready(host: str, port: int) -> dict[str, Any]:
    """What a gateway that is ready says of itself.

    Raises:
        RuntimeError, OSError: it is not.
    """
    status, body = await http_status(host, port, "/readyz")
    if status != 200:
        raise RuntimeError(f"/readyz says {status}: {body.strip()[:200]}")
    return json.loads(body)
