"""`fabric ps` and `fabric tools`: who is there, and what they offer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fabric.cli.connection import catalogue, connected
from fabric.cli.console import out, print_json, run, table
from fabric.cli.options import DataOption, JsonOption
from fabric_sdk.contracts.description import Beat


def ps(json_output: JsonOption = False, data: DataOption = None) -> None:
    """List agents and their instances."""
    run(_ps(json_output=json_output, data=data))


def tools(
    agent: Annotated[str | None, typer.Argument(help="Only this agent's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those of the platform's own agents too.")] = False,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List tools. MCP clients see AGENT_TOOL, or TOOL alone where the agent is the gateway's root."""
    run(_tools(agent, everything=everything or agent is not None, json_output=json_output, data=data))


async def _ps(*, json_output: bool, data: Path | None) -> None:
    async with connected(data) as fabric:
        found = await catalogue(fabric)
    if json_output:
        print_json(found)
        return
    rows: list[tuple[object, ...]] = []
    for agent in found["agents"]:
        beats = sorted((Beat.model_validate(raw) for raw in agent["instances"]), key=lambda beat: beat.started)
        rows += [_row(beat) for beat in beats]
        if not beats:
            rows.append((agent["name"], "", "", "gone", "", "", "", "", ""))
    table(("AGENT", "VERSION", "INSTANCE", "STATE", "BUSY", "SERVED", "FAILED", "PROCESS", "UP"), rows)


def _row(beat: Beat) -> tuple[object, ...]:
    busy = f"{beat.running}/{beat.capacity}" + (f" +{beat.waiting}" if beat.waiting else "")
    up = _duration(time.time() - beat.started)
    where = f"{beat.host}:{beat.pid}"
    return (beat.agent, beat.version, beat.instance, beat.state, busy, beat.served, beat.failed, where, up)


async def _tools(agent: str | None, *, everything: bool, json_output: bool, data: Path | None) -> None:
    found: list[dict[str, Any]] = []
    async with connected(data) as fabric:
        registry = fabric.agent("registry")
        for entry in (await catalogue(fabric))["agents"] if agent is None else [{"name": agent}]:
            described = await registry.call("description", {"agent": entry["name"]}, timeout=10.0)
            if everything or described["kind"] == "agent":
                found += [{"agent": entry["name"], **tool} for tool in described["tools"]]
    if json_output:
        print_json(found)
        return
    rows = [
        (tool["agent"], tool["name"], _signature(tool), (tool.get("description") or "").partition("\n")[0])
        for tool in found
    ]
    table(("AGENT", "TOOL", "ARGUMENTS", "DESCRIPTION"), rows)
    if not rows:
        out.print("[dim]No tools yet: start an agent with `fabric worker server.py`.[/]")


def _signature(tool: dict[str, Any]) -> str:
    schema: dict[str, Any] = tool.get("inputSchema") or {}
    required: set[str] = set(schema.get("required", ()))
    return ", ".join(name if name in required else f"[{name}]" for name in schema.get("properties", {}))


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
