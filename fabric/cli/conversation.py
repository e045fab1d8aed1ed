"""`fabric conversation`: what is remembered of conversations.

Above: `main`. Below: the SDK's conversations, on the fabric that `connection` finds.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fabric.cli.calling import said
from fabric.cli.connection import durable
from fabric.cli.console import brief_json, err, facts, out, print_json, run
from fabric.cli.options import DataOption, JsonOption
from fabric_sdk.patterns.conversation import Remembered

app = typer.Typer(name="conversation", help="What is remembered of conversations.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Letters, digits, hyphens, underscores.")]


@app.command()
def show(conversation_id: IdArgument, json_output: JsonOption = False, data: DataOption = None) -> None:
    """Show a conversation: its last snapshot, and what was said since."""

    async def work() -> Remembered:
        async with durable(data) as fabric:
            return await fabric.conversation(conversation_id).read()

    found = run(work())
    if json_output:
        print_json(asdict(found))
        return
    facts([("version", found.version), ("snapshot", brief_json(found.snapshot))])
    for entry in found.entries:
        print_json(entry, line=True)
    if not found.version:
        err.print("[dim]Nothing is remembered of it.[/]")


@app.command()
def append(
    conversation_id: IdArgument,
    words: Annotated[
        list[str],
        typer.Argument(metavar="ENTRY...", help="name=value pairs, or JSON; - reads JSON from standard input."),
    ],
    expected: Annotated[int | None, typer.Option(help="The version that this must follow.", min=0)] = None,
    data: DataOption = None,
) -> None:
    """Remember one thing more, and print the version: `fabric conversation append c-7 role=user text=hi`."""

    async def work() -> int:
        entry = said(words)
        async with durable(data) as fabric:
            return await fabric.conversation(conversation_id).append(entry, expected=expected)

    out.print(run(work()))
