"""`fabric mount`, `fabric unmount`, `fabric mounts`: which agents' tools an agent sees as its own.

Above: `main`. Below: the agent `access`, on the fabric that `connection` finds.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.connection import answer, strangers
from fabric.cli.console import err, out, print_json, run, table, warn
from fabric.cli.options import DataOption, JsonOption

AgentArgument = Annotated[str, typer.Argument(help="The agent that sees them.")]
PrefixArgument = Annotated[str, typer.Argument(help="What stands before their names, and a _ after it.")]


def mount(
    agent: AgentArgument,
    prefix: PrefixArgument,
    target: Annotated[str, typer.Argument(help="The agent whose tools they are.")],
    tools: Annotated[
        list[str] | None, typer.Option("--tool", metavar="GLOB", help="Only tools of such names: read_*. [all]")
    ] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Let an agent see another's tools: `fabric mount shop pay payments --tool "read_*"`."""
    mounted = run(answer(data, "access", "mount", agent=agent, prefix=prefix, target=target, tools=tools or None))
    for warning in run(strangers(data, agent, target)):
        warn(warning)
    if json_output:
        print_json(mounted)
    else:
        out.print(f"{agent} sees {target} as {prefix}_…", markup=False)


def unmount(
    agent: AgentArgument, prefix: PrefixArgument, json_output: JsonOption = False, data: DataOption = None
) -> None:
    """Let an agent see them no more."""
    was = run(answer(data, "access", "unmount", agent=agent, prefix=prefix))
    if json_output:
        print_json(was)
    else:
        out.print(f"{agent} does not see {was['target']} any more", markup=False)


def mounts(
    agent: Annotated[str | None, typer.Option("--agent", help="Only what this agent sees.")] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List which agents see which others' tools."""
    found = run(answer(data, "access", "list_mounts", agent=agent))
    if json_output:
        print_json(found)
        return
    rows = [(each["agent"], each["prefix"], each["target"], " ".join(each["tools"] or ["*"])) for each in found]
    table(("AGENT", "PREFIX", "TARGET", "TOOLS"), rows)
    if not rows:
        err.print("[dim]Nothing is mounted: `fabric mount AGENT PREFIX TARGET` does.[/]")
