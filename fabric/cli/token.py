"""`fabric token`: API keys, for people and agents.

Above: `main`. Below: the agent `access`, on the fabric that `connection` finds.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.connection import answer, strangers
from fabric.cli.console import err, fail, out, print_json, run, seen, table, warn
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.times import seconds, since
from fabric.identity.identity import Listing
from fabric_sdk.contracts.errors import ConfigurationError

app = typer.Typer(name="token", help="API keys: make, list, revoke.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for: ann, ci.")],
    agent: Annotated[str | None, typer.Option("--agent", help="The agent whose tools and mounts it opens.")] = None,
    roles: Annotated[list[str] | None, typer.Option("--role", metavar="ROLE", help="What policies go by.")] = None,
    scopes: Annotated[list[str] | None, typer.Option("--scope", metavar="SCOPE", help="What it grants.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="After 12h, 30d. [never]")] = None,
    listing: Annotated[Listing, typer.Option("--listing", help="Show all tools, or a search for them.")] = "all",
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Make an API key and print its token, which is never shown again."""
    wanted = {"name": name, "agent": agent, "roles": roles or [], "scopes": scopes or [], "listing": listing}
    made = run(answer(data, "access", "create_token", **wanted, seconds=_seconds(expires)))
    for warning in run(strangers(data, agent)) if agent else ():
        warn(warning)
    if json_output:
        print_json(made)
        return
    out.print(made["token"], markup=False, soft_wrap=True)  # alone on standard output: a script takes it as it is
    end = f", expires {since(made['expires'])}" if made["expires"] else ""
    err.print(f"[dim]key {made['id']} of {made['principal']}{end}; the token is not shown again[/]", soft_wrap=True)
    if not (agent or roles or scopes):
        warn(
            "with neither --agent, --role nor --scope it opens only what a policy allows to its name or to everybody, "
            "and the built-in policy nothing: there, --role admin opens everything"
        )


@app.command("list")
def list_(json_output: JsonOption = False, data: DataOption = None) -> None:
    """List API keys, the oldest first; never their tokens."""
    found = run(answer(data, "access", "list_tokens"))
    if json_output:
        print_json(found)
        return
    rows = [
        (
            key["id"],
            key["name"],
            key["principal"],
            " ".join(key["roles"]),
            " ".join(key["scopes"]),
            since(key["created"]),
            since(key["expires"]) if key["expires"] else "never",
        )
        for key in found
    ]
    table(("ID", "NAME", "PRINCIPAL", "ROLES", "SCOPES", "CREATED", "EXPIRES"), rows)
    if not rows:
        err.print("[dim]No keys: make one with `fabric token create NAME`.[/]")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Of the key.")],
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Let a key open nothing any more, at any gateway, at once."""
    revoked = run(answer(data, "access", "revoke_token", id=key_id))
    if json_output:
        print_json(revoked)
    else:
        out.print(f"revoked the key of {seen(revoked['principal'])}", markup=False)


def _seconds(expires: str | None) -> float | None:
    try:
        return None if expires is None else seconds(expires)
    except ConfigurationError as mistake:
        fail(mistake)
