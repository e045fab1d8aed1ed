"""`fabric mcp`: MCP on standard input and output, for hosts that start their servers as programs.

Above: `main`. Below: `fabric.stdio`, and the address that `whereabouts` knows.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from fabric import logs
from fabric.cli.console import err, fail, run
from fabric.cli.options import DataOption
from fabric.settings import load_settings
from fabric.stdio.hosts import HOSTS, Command, HostName
from fabric.stdio.pipes import require_pipes
from fabric.whereabouts import Whereabouts, usual_folder
from fabric_sdk.contracts.errors import ConfigurationError, TransportUnavailable

_TOKEN: Final = "FABRIC_TOKEN"
_SOME_TOKEN: Final = "the token of that gateway"


def mcp(
    url: Annotated[str | None, typer.Option(help="The gateway's URL; by default that of the running fabric.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Its token; by default that of the running fabric.", envvar=_TOKEN)
    ] = None,
    config: Annotated[
        HostName | None, typer.Option(help="Print what this host wants to read in order to start it.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Serve MCP on standard input and output, for desktop hosts."""
    if config is not None:
        _print_config(config, url, token, data)
        return
    if url is None:
        if (found := Whereabouts.of(data)) is None:
            fail(TransportUnavailable("no fabric is running here", fix="start one with `fabric up`, or give --url"))
        url, token = found.mcp_url, token or found.token
    elif token is None:
        token = _token_of_settings()
    from fabric.stdio.gateway import Gateway  # with an HTTP client, which no other command needs
    from fabric.stdio.serving import serve

    try:
        logs.configure(load_settings(log_level="warning"))
        gateway = Gateway(url, token)
        require_pipes()
    except ConfigurationError as mistake:
        fail(mistake)
    if sys.stdin.isatty():
        err.print("[dim]Waiting for an MCP host; `fabric mcp --config claude` prints what one needs.[/]")
    run(serve(gateway))


def _token_of_settings() -> str | None:
    try:
        token = load_settings().token
    except ConfigurationError as mistake:
        fail(mistake)
    return token.get_secret_value() if token else None


def _print_config(host: HostName, url: str | None, token: str | None, data: Path | None) -> None:
    """The snippet alone on standard output; where it belongs on standard error."""
    env: dict[str, str] = {}
    if url is None:
        # The folder is said, as a host need not have the environment that names it here.
        arguments = ["mcp", "--data", str((data or usual_folder()).expanduser().absolute())]
    else:
        from fabric.stdio.gateway import host_of

        try:
            host_of(url)  # a mistake is told to who makes it, not to the host that starts the program later
        except ConfigurationError as mistake:
            fail(mistake)
        arguments = ["mcp", "--url", url]
        env[_TOKEN] = token or _SOME_TOKEN
    program = Path(sysconfig.get_path("scripts")) / "fabric"
    if not program.is_file():
        fail(ConfigurationError(f"there is no {program}", fix="install agent-fabric with its commands"))
    file = HOSTS[host]
    sys.stdout.write(file.write(Command(str(program), arguments, env)) + "\n")
    err.print(f"[dim]This belongs into {escape(file.path)}.[/]", soft_wrap=True)
    if url is not None and token is None:
        err.print(f"[dim]Set {_TOKEN} in it, or take it out if that gateway asks for none.[/]")
