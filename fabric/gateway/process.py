"""The gateway as a process: `python -m fabric.gateway.process`, configured by the environment alone.

Above: `fabric up`, `fabric gateway`, containers. Below: uvicorn with uvloop and httptools, and `app`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from fabric import garbage, logs
from fabric.broker import connect_until
from fabric.gateway.app import Gateway
from fabric.gateway.http import PING_SECONDS
from fabric.gateway.listen import limited
from fabric.gateway.sockets import bind, room_for
from fabric.gateway.upgraded import Upgraded
from fabric.observability.metrics_page import page_of_one
from fabric.observability.metrics_process import told
from fabric.observability.metrics_socket import supervised
from fabric.settings import BAD_USAGE, Settings, load_settings
from fabric_sdk import Fabric, FabricError
from fabric_sdk.cancelling import end

log = logging.getLogger("fabric.gateway")

_STOP_SECONDS: Final = 30


async def serve(settings: Settings, listeners: list[socket.socket], metrics: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in hand are finished. `metrics`: the file that says where it is asked."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    transport = await connect_until(stop, str(settings.nats_url), name=f"gateway {os.getpid()}")
    if transport is None:
        return
    try:
        async with Fabric.over(transport) as fabric:
            gateway = Gateway(fabric, settings)
            async with gateway.run(), told(transport, metrics):
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


def main() -> None:
    """Read the environment, listen, serve. `FABRIC_LISTEN_FD` names sockets that listen already."""
    try:
        settings = load_settings()
        logs.configure(settings)
        settings.check_gateway()
        inherited = os.environ.get("FABRIC_LISTEN_FD")
        listeners = [socket.socket(fileno=int(each)) for each in inherited.split(",")] if inherited else []
        port = settings.metrics_port if supervised() is None else None
        with page_of_one("gateway", settings.metrics_host, port) as metrics:
            uvloop.run(serve(settings, listeners or [bind(settings.host, settings.port)], metrics))
    except FabricError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        sys.exit(BAD_USAGE)


if __name__ == "__main__":
    main()
