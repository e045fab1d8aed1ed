"""`fabric call`: one tool call from the command line.

Above: `main`. Below: `calling`, and a client of the fabric that `connection` finds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from fabric.cli.calling import (
    LOOK_SECONDS,
    arguments,
    described,
    misfits,
    show_progress,
    show_value,
    takes,
    wanted,
)
from fabric.cli.connection import connected, there_are
from fabric.cli.console import run
from fabric.cli.options import DataOption, JsonOption, TimeoutOption
from fabric_sdk import ToolError
from fabric_sdk.contracts.description import Json
from fabric_sdk.contracts.errors import DeadlineExceeded, InvalidParams, WorkerLost
from fabric_sdk.routing.retry import is_safe

_WITH_KEY: Final = (
    "see whether it was done before you call again; with `--key KEY`, which the tool has to go by, or where "
    "its author marks it readOnlyHint or idempotentHint, such a call goes to another worker"
)
_AGAIN: Final = "so was each worker that it was given to: `fabric ps` shows those there are, their logs what ended them"


def call(
    agent: Annotated[
        str, typer.Argument(help="The agent; or @capability; or agent.tool; or agent_tool, as MCP clients see it.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOOL ARGUMENTS",
            help="Its tool; then name=value pairs, values as JSON or text, or one JSON object.",
        ),
    ] = None,
    timeout: TimeoutOption = 60.0,
    key: Annotated[
        str | None,
        typer.Option(
            help="Idempotency key: if its worker is lost, the call is repeated, and the tool knows it by the key. "
            "Called again, it runs again; `fabric task start --key` does it once."
        ),
    ] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Call a tool: `fabric call hello echo text=hi`."""
    run(_call(agent, words or [], timeout, key, json_output=json_output, data=data))


async def _call(
    agent: str, words: list[str], timeout: float, key: str | None, *, json_output: bool, data: Path | None
) -> None:
    asked = wanted(agent, words)
    async with connected(data) as fabric:
        offer = await described(fabric, asked.agent, min(timeout, LOOK_SECONDS))
        tools: dict[str, Json] = {tool["name"]: tool for tool in offer.tools} if offer else {}
        tool = tools.get(asked.tool, {})
        given = arguments(asked.given, schema := tool.get("inputSchema", {}))
        try:
            value = await fabric.agent(asked.agent).call(
                asked.tool, given, timeout=timeout, key=key, on_progress=show_progress
            )
        except (InvalidParams, ToolError) as refused:
            if tools and asked.tool not in tools:  # said only now: another of its instances might have had it
                refused.fix = there_are(asked.tool, tools)
            elif misfits(given, schema):  # else it is not about them that the tool speaks
                refused.fix = takes(asked, schema)
            raise
        except WorkerLost as lost:
            lost.fix = _AGAIN if key is not None or is_safe(tool.get("annotations")) else _WITH_KEY
            raise
        except DeadlineExceeded as late:
            late.fix = f"--timeout gives it more than these {timeout:g} s; `fabric task start` as long as it takes"
            raise
    show_value(value, json_output=json_output)
