"""`fabric gateway`: gateways alone, for containers and for more replicas.

Above: `main`. Below: `fabric.gateway.process`, which one gateway is; more are supervised here.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.console import err, fail, run
from fabric.cli.processes import Shown
from fabric.cli.stopping import Stop
from fabric.gateway.replicas import gateways
from fabric.observability.metrics_page import page_of_all
from fabric.observability.metrics_socket import RUN
from fabric.pool.run_folder import run_folder
from fabric.process import Copies, Supervisor
from fabric.settings import Settings, load_settings
from fabric_sdk.contracts.errors import ConfigurationError


def gateway(
    replicas: Annotated[
        int, typer.Option(help="Gateway processes behind one port; one that dies is replaced.", min=1)
    ] = 1,
) -> None:
    """Serve MCP for the fabric that FABRIC_NATS_URL names; configured by the environment alone. SIGTERM drains it."""
    if replicas == 1:
        from fabric.gateway import process  # with the MCP SDK: a second that no other command shall pay

        process.main()
        return
    try:
        settings = load_settings()
        settings.check_gateway()
    except ConfigurationError as mistake:
        fail(mistake)
    run(_replicated(settings, replicas))


async def _replicated(settings: Settings, replicas: int) -> None:
    stop = Stop()
    with gateways(settings.host, settings.port) as (listener, specs), run_folder() as run:
        async with Supervisor(Shown()) as supervisor:
            with page_of_all(supervisor, run, settings.metrics_host, settings.metrics_port):
                await Copies(supervisor, specs({RUN: str(run)})).scale(replicas)
                host, port = listener.getsockname()[:2]
                err.print(f"[green]ready[/]    {replicas} gateways at http://{host}:{port}/mcp")
                await stop.wait()
