"""`fabric gateway`: gateways alone, for containers and for more replicas.

Above: `main`. Below: `fabric.gateway.process`, which one gateway is; more are supervised here.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.console import err, fail, run
from fabric.cli.options import ConfigOption
from fabric.cli.processes import Shown, supervised
from fabric.cli.stopping import Stop
from fabric.cli.variables import warn_of_variables
from fabric.gateway.replicas import gateways
from fabric.live import Announcer, LiveSettings, following
from fabric.observability.metrics_page import page_of_all
from fabric.pool.run_folder import run_folder
from fabric.process import Copies, Supervisor
from fabric.settings.passing import RUN, LiveFile, fixed
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import ConfigurationError


def gateway(
    replicas: Annotated[
        int, typer.Option(help="Gateway processes behind one port; one that dies is replaced.", min=1)
    ] = 1,
    config: ConfigOption = None,
) -> None:
    """Serve MCP for the fabric that FABRIC_NATS_URL names. SIGTERM drains it."""
    if replicas == 1:
        from fabric.gateway import process  # with the MCP SDK: a second that no other command shall pay

        warn_of_variables()
        process.main(config)
        return
    try:
        live = supervised(config, {})
        live.settings.check_gateway()
    except ConfigurationError as mistake:
        fail(mistake)
    run(_replicated(live, replicas))


async def _replicated(live: LiveSettings, replicas: int) -> None:
    stop, settings = Stop(), live.settings
    with gateways(settings.host, settings.port) as (listener, specs), run_folder() as folder:
        file = LiveFile(folder, settings)
        live.listen(lambda change: file.write(change.settings))
        async with Supervisor(Shown()) as supervisor:
            with page_of_all(supervisor, folder, settings.metrics_host, settings.metrics_port):
                env = fixed(settings, secrets=True) | file.env | {RUN: str(folder)}
                await Copies(supervisor, specs(env)).scale(replicas)
                host, port = listener.getsockname()[:2]
                err.print(f"[green]ready[/]    {replicas} gateways at http://{host}:{port}/mcp")
                live.hear_hangup()
                async with following(live, Announcer("fabric gateway", lambda: Fabric.connect(settings.nats_url))):
                    await stop.wait()
