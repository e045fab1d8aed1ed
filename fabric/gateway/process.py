"""The gateway as a process: `python -m fabric.gateway.process`, configured by the environment and `fabric.toml`.

Above: `fabric up`, `fabric gateway`, containers. Below: uvicorn with uvloop and httptools, and `app`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Final
from uuid import uuid4

import uvicorn
import uvloop

from fabric import garbage, logs
from fabric.broker import connect_until
from fabric.gateway.app import Gateway
from fabric.gateway.http import PING_SECONDS
from fabric.gateway.listen import limited
from fabric.gateway.sockets import bind, room_for
from fabric.gateway.upgraded import Upgraded
from fabric.live import Announcer, LiveSettings, following
from fabric.named_files import check
from fabric.observability.metrics_page import page_of_one
from fabric.observability.metrics_process import told
from fabric.observability.metrics_socket import supervised
from fabric.observability.otel import about
from fabric.observability.tracing import configure, exporting
from fabric.settings import BAD_USAGE, Settings
from fabric.settings.passing import LISTEN_FD
from fabric_sdk import Fabric, FabricError
from fabric_sdk.cancelling import end

log = logging.getLogger("fabric.gateway")

_STOP_SECONDS: Final = 30


async def serve(
    live: LiveSettings, listeners: list[socket.socket], *, alone: bool, metrics: Path | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; requests in hand are finished.

    Args:
        live: the settings.
        listeners: sockets that listen already.
        alone: whether nobody else announces changes of the settings.
        metrics: the file that says where this process is asked for what it counted.
    """
    settings = live.settings
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    live.hear_hangup()
    transport = await connect_until(stop, str(settings.nats_url), name=f"gateway {os.getpid()}")
    if transport is None:
        return
    try:
        async with Fabric.over(transport) as fabric:
            gateway = Gateway(fabric, settings)
            live.listen(lambda change: gateway.follow(change.settings))
            announcer = Announcer("gateway", lambda: nullcontext(fabric)) if alone else None
            resource = about("gateway", uuid4().hex[:16])
            spans, numbers = exporting(transport, resource), told(transport, resource, metrics)
            async with spans, gateway.run(), numbers, following(live, announcer):
                garbage.settle()
                if not stop.is_set():
                    await _serve_http(gateway, settings, listeners, stop)
    finally:
        await transport.close()


async def _serve_http(
    gateway: Gateway, settings: Settings, listeners: list[socket.socket], stop: asyncio.Event
) -> None:
    config = uvicorn.Config(
        gateway,
        http=limited(int(settings.max_header), settings.client_timeout, room_for(settings.max_connections)),
        ws=Upgraded,
        ws_max_size=int(settings.max_body),
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=settings.client_timeout,
        ws_per_message_deflate=False,  # answers are small, and a window each connection is not
        proxy_headers=False,  # nothing here depends on the client's address
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    log.info("MCP is at http://%s:%s/mcp", *listeners[0].getsockname()[:2])
    server = _Server(config, gateway)
    # It hears signals itself once it serves; one that comes while it starts is heard here alone.
    stopping = asyncio.create_task(_stop_with(stop, server))
    try:
        await server.serve(listeners)
    finally:
        await end([stopping])


class _Server(uvicorn.Server):
    """One whose streams end when it is to stop: they would keep it, and their clients, for as long as it waits."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would go on for ever, then wait for what ends by itself."""
        self._gateway.close()
        await super().shutdown(sockets)


async def _stop_with(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def main(config: Path | None = None) -> None:
    """Read the settings, listen, serve. Sockets may listen already, a supervisor's."""
    try:
        live = LiveSettings(config, check=check)
        settings = live.settings
        logs.configure(settings)
        settings.check_gateway()
        configure()
        inherited = os.environ.get(LISTEN_FD)
        listeners = [socket.socket(fileno=int(each)) for each in inherited.split(",")] if inherited else []
        port = settings.metrics_port if supervised() is None else None
        with page_of_one("gateway", settings.metrics_host, port) as metrics:
            bound = listeners or [bind(settings.host, settings.port)]
            uvloop.run(serve(live, bound, alone=not inherited, metrics=metrics))
    except FabricError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        sys.exit(BAD_USAGE)


if __name__ == "__main__":
    main()
