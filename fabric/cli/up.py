"""`fabric up`: a whole fabric on this machine, in one command.

Above: `main`. Below: `fabric.node`, which starts all parts and watches them.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fabric.cli.console import fail, out, run
from fabric.cli.options import ConfigOption, DataOption
from fabric.cli.processes import Shown, supervised
from fabric.cli.stopping import Stop
from fabric.embedded.folder import default_path
from fabric.files import put
from fabric.live import LiveSettings
from fabric.node import NodePlan, run_node
from fabric.pool.specs import PoolSpec
from fabric.whereabouts import Whereabouts
from fabric_sdk.contracts.errors import ConfigurationError


def up(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Pools to start with it: [name=]module:object or [name=]file.py:object.")
    ] = None,
    data: DataOption = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing on disk after the end.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, 0 for any free one. [8420]", min=0, max=65_535)
    ] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Ask for no token (loopback only).")] = False,
    root: Annotated[str | None, typer.Option(help="Agent whose tools get no prefix.")] = None,
    processes: Annotated[int, typer.Option(help="Worker processes for each pool named here.", min=1)] = 1,
    concurrency: Annotated[int, typer.Option(help="Calls, and tasks, that each process handles at once.", min=1)] = 64,
    gateways: Annotated[int, typer.Option(help="Gateway processes behind the one port.", min=1)] = 1,
    config: ConfigOption = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write how to connect, as JSON, once all is ready.")] = None,
) -> None:
    """Start a fabric: NATS, Redis, registry, gateway, and pools. Ctrl-C stops it."""
    given = {"data": data, "host": host, "port": port, "anonymous": anonymous or None, "root": root}
    try:
        live = supervised(config, given)
        pools = [PoolSpec.configured(key, pool) for key, pool in live.settings.pools.items()]
        pools += [_pool(target, processes, concurrency) for target in targets or ()]
    except ConfigurationError as mistake:
        fail(mistake)
    run(_up(live, NodePlan(pools=pools, gateways=gateways, ephemeral=ephemeral), ready_file))


def _pool(argument: str, processes: int, concurrency: int) -> PoolSpec:
    name, equals, target = argument.partition("=")
    return PoolSpec(
        target=target if equals else argument,
        name=name if equals else None,
        processes=processes,
        concurrency=concurrency,
    )


async def _up(live: LiveSettings, plan: NodePlan, ready_file: Path | None) -> None:
    stop = Stop()
    async with run_node(live, plan, Shown()) as connection:
        live.hear_hangup()
        with _announced(ready_file, connection):
            _greet(connection, None if plan.ephemeral else live.settings.data or default_path())
            await stop.wait()


@contextmanager
def _announced(path: Path | None, connection: Whereabouts) -> Generator[None]:
    """The ready file, if one is wanted: there while all is ready; whole, and readable by this user alone."""
    if path is None:
        yield
        return
    put(path, connection.to_json())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _greet(connection: Whereabouts, folder: Path | None) -> None:
    out.print(f"\n[bold]MCP[/]    {connection.mcp_url}")
    if connection.token is not None:
        out.print(f"[bold]token[/]  {escape(connection.token)}", soft_wrap=True)
    out.print(f"[bold]bus[/]    export FABRIC_NATS_URL={escape(connection.nats_url)}", soft_wrap=True)
    out.print(f"[bold]watch[/]  {escape(connection.metrics_url)}", soft_wrap=True)
    nearby = "with that in their environment"
    if folder is not None:
        path = str(folder.absolute())
        usual = folder == default_path()
        named = path if usual else f"export FABRIC_DATA={shlex.quote(path)}"
        out.print(f"[bold]data[/]   {escape(named)}", soft_wrap=True)
        nearby = "from another terminal" if usual else "with one of the two in their environment"
    out.print(f"[dim]`fabric ps`, `fabric tools`, `fabric worker server.py` reach it {nearby}.[/]")
    out.print("[dim]Ctrl-C stops all.[/]")
