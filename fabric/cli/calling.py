"""From what a person types to a tool's arguments, and from its value to what is printed: for calls and tasks alike.

Above: `call`, `offers`, `task`, `schedule`, `events`, `conversation`, `dead`. Below: the registry's catalogue, and the
terminal.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

import jsonschema_rs
from rich.markup import escape

from fabric.cli.connection import catalogue, there_are
from fabric.cli.console import err, out, print_json, seen, warn
from fabric.cli.times import full
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts.description import Description, Json
from fabric_sdk.contracts.errors import (
    AgentUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    InvalidParams,
    UnknownAgent,
    UnknownName,
)
from fabric_sdk.contracts.subjects import ANYBODY, checked_address, who

_BOTH: Final = re.compile(r"(@?[a-z0-9-]+)[._](.+)")
_DEPTH: Final = 8
"""Of references within a schema: one may lead back to itself."""
LOOK_SECONDS: Final = 5.0
"""How long the registry may take to say what an agent offers."""


class Wanted(NamedTuple):
    """Which tool is meant, and what was typed for it."""

    agent: str
    tool: str
    given: list[str]


def show_progress(done: float, total: float | None, message: str | None) -> None:
    """Tell how far the work is, beside its result."""
    of = "" if total is None else f" of {total:g}"
    err.print(f"[dim]{done:g}{of} {escape(seen(message or ''))}[/]")


def show_value(value: Any, *, json_output: bool) -> None:
    """A tool's value, alone on standard output: text as it is, the rest as JSON."""
    if json_output or not isinstance(value, str):
        print_json(value)
    else:
        out.print(seen(value, but="\n\t") if out.is_terminal else value, markup=False, soft_wrap=True)


def show_attempts(failed: Sequence[Json]) -> None:
    """The errors of a task's attempts, the first one first."""
    for each in failed:
        about = (full(each.get("at")), each.get("instance"), each.get("trace"))
        origin = " ".join(str(part) for part in about if part)
        out.print(
            f"[bold]try {escape(seen(str(each.get('attempt'))))}[/]  {escape(seen(str(each.get('error'))))}",
            soft_wrap=True,
        )
        out.print(f"       [dim]{escape(seen(origin))}[/]", soft_wrap=True)


def wanted(agent: str, words: list[str]) -> Wanted:
    """No agent's name has a dot or an underscore, so the first one ends it; nor has a capability."""
    if both := _BOTH.fullmatch(agent):
        return Wanted(both[1], both[2], words)
    if not words:
        where = "fabric ps --capability" if agent.startswith(ANYBODY) else "fabric tools"
        raise ConfigurationError("no tool is named", fix=f"`{where} {agent.lstrip(ANYBODY)}` lists those there are")
    return Wanted(agent, words[0], words[1:])


async def described(fabric: Fabric, agent: str, timeout: float) -> Description | None:
    """What the agent offers, as far as the registry knows; of those with a capability, what the first one does.

    Raises:
        UnknownAgent: it is not there.
    """
    if agent.startswith(ANYBODY):
        able = await catalogue(fabric, {"capability": agent.removeprefix(ANYBODY)}, timeout=timeout)
        if not able["agents"]:
            raise UnknownAgent(f"there are no {who(agent)}", fix="`fabric ps` shows what those can who are there")
        agent = able["agents"][0]["name"]
    names = [entry["name"] for entry in (await catalogue(fabric, timeout=timeout))["agents"]]
    if agent not in names and agent != "registry":
        raise UnknownAgent(f"there is no agent {agent!r}", fix=there_are(agent, names))
    with suppress(FabricError, ValueError):  # the call itself says what is wrong
        answer = await fabric.agent("registry").call("description", {"agent": agent}, timeout=timeout)
        return Description.model_validate(answer)
    return None


async def for_a_task(fabric: Fabric, asked: Wanted) -> Json:
    """The arguments of work that is kept until the agent takes it; warns if it is not there now.

    Raises:
        UnknownName: the agent is there, and has no such tool.
        InvalidParams: it has, and the tool would refuse these arguments.
    """
    tools: dict[str, Json] = {}
    try:
        offer = await described(fabric, checked_address(asked.agent), LOOK_SECONDS)
        tools = {tool["name"]: tool for tool in offer.tools} if offer else {}
    except UnknownAgent as missing:
        warn(f"{missing.message} now ({missing.fix}); the work waits until there is")
    except (AgentUnavailable, DeadlineExceeded):
        warn("no registry answers, so whether there is such a tool is not known; the work waits until there is")
    if tools and asked.tool not in tools:
        raise UnknownName(f"{who(asked.agent)} has no tool {asked.tool!r}", fix=there_are(asked.tool, tools))
    schema = tools.get(asked.tool, {}).get("inputSchema", {})
    given = arguments(asked.given, schema)
    if wrong := misfits(given, schema):
        raise InvalidParams(f"invalid arguments for {asked.tool}: {'; '.join(wrong)}", fix=takes(asked, schema))
    return given


def takes(asked: Wanted, schema: Json) -> str:
    """What to say to somebody whose arguments do not fit a tool."""
    names = signature(schema)
    more = "" if asked.agent.startswith(ANYBODY) else f"; `fabric tools {asked.agent} --json` has the whole schema"
    return (f"{asked.tool} takes {names}: write name=value" if names else f"{asked.tool} takes no arguments") + more


def signature(schema: Json) -> str:
    """The arguments of a tool with this schema; in brackets, those that may be left out."""
    required: set[str] = set(schema.get("required", ()))
    return ", ".join(name if name in required else f"[{name}]" for name in schema.get("properties", {}))


def misfits(given: Json, schema: Json) -> list[str]:
    """What is wrong with arguments by a tool's schema; nothing by a schema that is none."""
    try:
        validator = jsonschema_rs.Draft202012Validator(schema, retriever=_nowhere)
        found = list(validator.iter_errors(given))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return []  # the tool itself decides
    return [": ".join(filter(None, [".".join(map(str, each.instance_path)), each.message])) for each in found]


def _nowhere(uri: str) -> Any:
    """Nothing is fetched to check what was typed."""
    raise ValueError(uri)


def said(words: list[str]) -> Any:
    """What was typed to be told, or with `-` what is on standard input: name=value pairs, or any JSON."""
    text = sys.stdin.read() if words == ["-"] else words[0]
    if len(words) > 1 or (words != ["-"] and _is_pair(text)):
        return arguments(words, {})
    try:
        return json.loads(text)
    except ValueError as broken:
        raise ConfigurationError(
            f"the data is not JSON: {broken}", fix='write name=value, or {"name": "value"}'
        ) from None


def _is_pair(text: str) -> bool:
    return "=" in text and not text.lstrip().startswith(("{", "[", '"'))


def arguments(given: list[str], schema: Json) -> Json:
    """What was typed, as a tool with this schema of arguments wants it."""
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        try:
            value = json.loads(given[0])
        except ValueError as broken:
            raise ConfigurationError(f"the arguments are not JSON: {broken}", fix='write {"name": "value"}') from None
        return cast("Json", value)
    found: Json = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            first = next((name for name in schema.get("properties", ()) if name not in found), None)
            fix = "write text=hi or count=3" if first is None else f"write {first}={shlex.quote(pair)}"
            raise ConfigurationError(f"{pair!r} is not name=value", fix=fix)
        found[name] = _value(text, _types(schema.get("properties", {}).get(name), schema.get("$defs", {})))
    return found


def _value(text: str, types: set[str]) -> Any:
    """What was typed, as JSON where it is JSON of one of these types; any JSON, where there are none."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if "string" in types and _type_of(value) not in types else value


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _types(schema: Any, definitions: Json, depth: int = _DEPTH) -> set[str]:
    """The JSON types that a schema names, `integer` as `number`; none for one that does not say, or is too deep."""
    if not isinstance(schema, dict) or not depth:
        return set()
    stated = cast("Json", schema)
    if "$ref" in stated:
        return _types(definitions.get(str(stated["$ref"]).rpartition("/")[2]), definitions, depth - 1)
    named: Any = stated.get("type", [])
    types = {"number" if name == "integer" else str(name) for name in ([named] if isinstance(named, str) else named)}
    values: list[Any] = [*stated.get("enum", ()), *([stated["const"]] if "const" in stated else ())]
    inner = [_types(each, definitions, depth - 1) for each in (*stated.get("anyOf", ()), *stated.get("oneOf", ()))]
    if inner and not all(inner):  # one of the choices takes anything
        return set()
    return types.union(map(_type_of, values), *inner)
