"""`fabric ps` and `fabric tools`: who is there, and what they offer.

Above: `main`; `doctor`, for what instances disagree on. Below: the registry's catalogue, and the instances
themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from fabric.cli.calling import signature
from fabric.cli.connection import catalogue, connected, there_are
from fabric.cli.console import err, fail, out, print_json, run, seen, table
from fabric.cli.options import DataOption, JsonOption, label_pairs
from fabric.cli.times import brief
from fabric_sdk import Fabric, FabricError
from fabric_sdk.announce import beat_in
from fabric_sdk.contracts.description import Beat, Json
from fabric_sdk.contracts.errors import ConfigurationError, UnknownAgent
from fabric_sdk.contracts.subjects import checked_capability, having, service
from fabric_sdk.patterns.gather import gather

_ASK_SECONDS: Final = 0.5
_ENOUGH: Final = 8
"""Characters of an instance that tell it from others; `--json` has all."""


def ps(
    capability: Annotated[str | None, typer.Option(help="Only those with this capability.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only those with it; repeatable.")
    ] = None,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List agents and their instances.

    BUSY: calls in hand, of how many are taken at once, and + how many wait for that.
    All is as the instance itself says now; with a ~ it does not answer, and its last heartbeat said so, up to 15 s ago.
    """
    try:
        if capability is not None:
            checked_capability(capability)
        labels = label_pairs(label or [])
    except ConfigurationError as mistake:
        fail(mistake)
    run(_ps(capability, labels, json_output=json_output, data=data))


def tools(
    agent: Annotated[str | None, typer.Argument(help="Only this agent's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those of the platform's own agents too.")] = False,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List tools. MCP clients see AGENT_TOOL, or TOOL alone where the agent is the gateway's root."""
    run(_tools(agent, everything=everything or agent is not None, json_output=json_output, data=data))


async def _ps(capability: str | None, labels: dict[str, str], *, json_output: bool, data: Path | None) -> None:
    only: Json = ({"capability": capability} if capability else {}) | ({"labels": labels} if labels else {})
    async with connected(data) as fabric:
        found = await catalogue(fabric, only)
        known = [beat for agent in found["agents"] for beat in agent["instances"]]
        fresh = await _now(fabric, capability, None if labels else len(known))
    for agent in found["agents"]:
        agent["instances"] = [fresh.get(beat["instance"], beat) for beat in agent["instances"]]
    if json_output:
        print_json(found)
        return
    rows: list[tuple[object, ...]] = []
    traits: dict[tuple[str, str, str], None] = {}
    for agent in found["agents"]:
        beats = sorted((Beat.model_validate(raw) for raw in agent["instances"]), key=lambda beat: beat.started)
        rows += [_row(beat, current=beat.instance in fresh) for beat in beats]
        if not beats:
            rows.append((agent["name"], "", "", "gone", "", "", "", "", ""))
        traits |= {(beat.agent, " ".join(beat.capabilities), _labels(beat)): None for beat in beats}
    table(("AGENT", "VERSION", "INSTANCE", "STATE", "BUSY", "SERVED", "FAILED", "PROCESS", "UP"), rows)
    if told := [each for each in traits if any(each[1:])]:
        out.print()
        table(("AGENT", "CAPABILITIES", "LABELS"), told)
    if only and not rows:
        err.print("[dim]None of those that are there.[/]")
    for warning in disagreements(found["agents"]):
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


async def _now(fabric: Fabric, capability: str | None, most: int | None) -> dict[str, Json]:
    """The heartbeats of this moment, by instance, of those who answer: what the registry has is that of a while ago."""
    whose = () if capability is None else (having(capability),)
    answers = await gather(fabric.transport, service("STATS", *whose), seconds=_ASK_SECONDS, most=most)
    return {beat.instance: beat.model_dump() for beat in map(beat_in, answers) if beat is not None}


def disagreements(agents: list[Json]) -> list[str]:
    """The agents whose instances do not all offer the same, though each call may go to any of them."""
    found: list[str] = []
    for agent in agents:
        ready = [beat for beat in map(Beat.model_validate, agent["instances"]) if beat.state == "ready"]
        others = Counter(beat.version for beat in ready if beat.digest != agent["digest"])
        if others:
            versions = ", ".join(f"{count} of version {seen(version)}" for version, count in others.items())
            found.append(
                f"{others.total()} of {len(ready)} instances of {agent['name']} ({versions}) offer something else than "
                "clients are shown, which is what most offer; calls go to any"
            )
    return found


def _row(beat: Beat, *, current: bool) -> tuple[object, ...]:
    busy = f"{'' if current else '~'}{beat.running}/{beat.capacity}" + (f" +{beat.waiting}" if beat.waiting else "")
    up = brief(time.time() - beat.started)
    where = f"{beat.host.partition('.')[0]}:{beat.pid}"
    return (beat.agent, beat.version, beat.instance[:_ENOUGH], beat.state, busy, beat.served, beat.failed, where, up)


def _labels(beat: Beat) -> str:
    return " ".join(f"{name}={value}" for name, value in beat.labels.items())


async def _tools(agent: str | None, *, everything: bool, json_output: bool, data: Path | None) -> None:
    async with connected(data) as fabric:
        names = [entry["name"] for entry in (await catalogue(fabric))["agents"]]
        if agent is not None and agent not in names:
            raise UnknownAgent(f"there is no agent {agent!r}", fix=there_are(agent, names))
        wanted = names if agent is None else [agent]
        descriptions = await asyncio.gather(*(_described(fabric, name) for name in wanted), return_exceptions=True)
    found: list[Json] = []
    for name, described in zip(wanted, descriptions, strict=True):
        if isinstance(described, FabricError) and agent is None:  # one bad agent must not hide the others
            err.print(f"[yellow]warning:[/] {name}: {escape(seen(described.message))}", soft_wrap=True)
        elif isinstance(described, BaseException):
            raise described
        elif everything or described["kind"] == "agent":
            found += [{"agent": name, **tool} for tool in described["tools"]]
    if json_output:
        print_json(found)
        return
    rows = [
        (
            tool["agent"],
            tool["name"],
            signature(tool.get("inputSchema") or {}),
            (tool.get("description") or "").partition("\n")[0],
        )
        for tool in found
    ]
    table(("AGENT", "TOOL", "ARGUMENTS", "DESCRIPTION"), rows)
    if not rows:
        out.print("[dim]No tools yet: start an agent with `fabric worker server.py`.[/]")


async def _described(fabric: Fabric, agent: str) -> Json:
    return await fabric.agent("registry").call("description", {"agent": agent}, timeout=10.0)
