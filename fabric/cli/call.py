"""`fabric call`: one tool call from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fabric.cli.connection import catalogue, connected
from fabric.cli.console import err, out, print_json, run
from fabric.cli.options import DataOption, JsonOption, TimeoutOption
from fabric_sdk.contracts.errors import ConfigurationError, UnknownAgent


def call(
    agent: Annotated[str, typer.Argument(help="The agent.")],
    tool: Annotated[str, typer.Argument(help="Its tool.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="name=value pairs, values as JSON or text; or one JSON object.")
    ] = None,
    timeout: TimeoutOption = 60.0,
    key: Annotated[str | None, typer.Option(help="Idempotency key: repeat the call safely.")] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Call a tool: `fabric call hello echo text=hi`."""
    run(_call(agent, tool, arguments or [], timeout, key, json_output=json_output, data=data))


async def _call(
    agent: str, tool: str, given: list[str], timeout: float, key: str | None, *, json_output: bool, data: Path | None
) -> None:
    arguments = _arguments(given)

    def progress(done: float, total: float | None, message: str | None) -> None:
        err.print(f"[dim]{done:g}{'' if total is None else f' of {total:g}'} {message or ''}[/]")

    async with connected(data) as fabric:
        names = [entry["name"] for entry in (await catalogue(fabric, timeout=min(timeout, 5.0)))["agents"]]
        if agent not in names and agent != "registry":
            raise UnknownAgent(f"there is no agent {agent!r}", fix=f"there are: {', '.join(names) or 'none'}")
        value = await fabric.agent(agent).call(tool, arguments, timeout=timeout, key=key, on_progress=progress)
    if json_output or not isinstance(value, str):
        print_json(value)
    else:
        out.print(value, markup=False, soft_wrap=True)


def _arguments(given: list[str]) -> dict[str, Any]:
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        try:
            value = json.loads(given[0])
        except ValueError as broken:
            raise ConfigurationError(f"the arguments are not JSON: {broken}", fix='write {"name": "value"}') from None
        return cast("dict[str, Any]", value)
    arguments: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{pair!r} is not name=value", fix="write text=hi or count=3")
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            arguments[name] = text
    return arguments
