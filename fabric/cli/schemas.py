"""`fabric events schemas`: what data of events must look like.

Above: `events`. Below: the SDK's schemas, on the fabric that `connection` finds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fabric.cli.connection import durable, there_are
from fabric.cli.console import err, out, print_json, run, table
from fabric.cli.options import DataOption, JsonOption
from fabric.cli.times import since
from fabric_sdk.contracts.errors import ConfigurationError, UnknownName
from fabric_sdk.contracts.event import checked_pattern, checked_topic
from fabric_sdk.patterns.schema import Compatibility, Schema

app = typer.Typer(name="schemas", help="What the data of events must look like.", no_args_is_help=True)


@app.command("list")
def list_(
    topics: Annotated[str, typer.Argument(help="`orders.*`, `orders.>`.")] = ">",
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List every version of the schemas of these topics."""

    async def work() -> list[Schema]:
        wanted = checked_pattern(topics)
        async with durable(data) as fabric:
            return await fabric.schemas.list(wanted)

    found = run(work())
    if json_output:
        print_json([asdict(schema) for schema in found])
        return
    rows = [(each.topic, each.version, each.compatibility, since(each.registered)) for each in found]
    table(("TOPIC", "VERSION", "COMPATIBILITY", "REGISTERED"), rows)
    if not rows:
        err.print("[dim]No schemas: register one with `fabric events schemas register TOPIC FILE`.[/]")


@app.command()
def show(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    version: Annotated[int | None, typer.Option(help="The latest by default.", min=1)] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Print a topic's JSON Schema; with --json, all that is known of it."""

    async def work() -> Schema:
        async with durable(data) as fabric:
            versions = {each.version: each for each in await fabric.schemas.list(checked_topic(topic))}
            if not versions:
                topics = {each.topic for each in await fabric.schemas.list()}
                raise UnknownName(f"topic {topic!r} has no schema", fix=there_are(topic, topics))
        wanted = version or max(versions)
        if wanted not in versions:
            raise UnknownName(f"{topic} has no version {wanted}", fix=there_are(str(wanted), map(str, versions)))
        return versions[wanted]

    found = run(work())
    print_json(asdict(found) if json_output else found.schema)


@app.command()
def register(
    topic: Annotated[str, typer.Argument(help="Words between dots: orders.created.")],
    file: Annotated[Path, typer.Argument(help="With the JSON Schema; - reads standard input.", allow_dash=True)],
    compatibility: Annotated[
        Compatibility | None, typer.Option(help="What later versions keep, too. [full, or as it is]")
    ] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Make this the latest version of a topic's schema, unless it would break readers."""

    async def work() -> Schema:
        schema = _read(file)
        async with durable(data) as fabric:
            return await fabric.schemas.register(topic, schema, compatibility)

    found = run(work())
    if json_output:
        print_json(asdict(found))
    else:
        out.print(f"{found.topic} version {found.version}, {found.compatibility}")


def _read(file: Path) -> dict[str, Any]:
    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    try:
        schema = json.loads(text)
    except ValueError as broken:
        raise ConfigurationError(f"{file} is not JSON: {broken}", fix="name a file with a JSON Schema") from None
    if not isinstance(schema, dict):
        raise ConfigurationError(f"{file} holds no JSON object", fix="name a file with a JSON Schema")
    return cast("dict[str, Any]", schema)
