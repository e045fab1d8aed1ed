"""`fabric read` and `fabric prompt`: what an agent offers beside its tools.

Above: `main`. Below: `calling`, and a client of the fabric that `connection` finds.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fabric.cli.calling import arguments, described, wanted
from fabric.cli.connection import connected, there_are
from fabric.cli.console import out, print_json, run, seen
from fabric.cli.options import DataOption, JsonOption, TimeoutOption
from fabric_sdk.contracts.description import Json
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams


def read(
    uri: Annotated[str, typer.Argument(help="As MCP clients write it: the agent first, as in notes://hello/monday.")],
    timeout: TimeoutOption = 60.0,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Read a resource: `fabric read notes://hello/monday`."""

    async def work() -> list[dict[str, Any]]:
        agent, own = own_uri(uri)
        async with connected(data) as fabric:
            await described(fabric, agent, timeout)
            return await fabric.agent(agent).read(own, timeout=timeout)

    contents = run(work())
    if json_output:
        print_json(contents)
        return
    for content in contents:
        if "blob" in content:
            sys.stdout.buffer.write(base64.b64decode(content["blob"]))
        else:
            _show(content["text"])


def prompt(
    agent: Annotated[str, typer.Argument(help="The agent; or agent.prompt; or agent_prompt, as MCP clients see it.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT ARGUMENTS", help="Its prompt; then name=value pairs.")
    ] = None,
    timeout: TimeoutOption = 60.0,
    json_output: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Fill in a prompt: `fabric prompt hello greet name=Ann`."""

    async def work() -> list[dict[str, Any]]:
        asked = wanted(agent, words or [])
        async with connected(data) as fabric:
            offer = await described(fabric, asked.agent, timeout)
            prompts: dict[str, Json] = {each["name"]: each for each in offer.prompts} if offer else {}
            given = arguments(asked.given, _texts(prompts.get(asked.tool, {}), asked.given))
            try:
                return await fabric.agent(asked.agent).prompt(asked.tool, given, timeout=timeout)
            except InvalidParams as refused:
                if prompts and asked.tool not in prompts:
                    refused.fix = there_are(asked.tool, prompts)
                raise

    messages = run(work())
    if json_output:
        print_json(messages)
        return
    for message in messages:
        content: dict[str, Any] = message["content"]
        _show(f"{message['role']}: {content.get('text', '[' + str(content.get('type')) + ']')}")


def _texts(prompt: Json, given: Sequence[str]) -> Json:
    """The schema of a prompt's arguments, which are all text: those that it names, and what else was typed."""
    typed = (name for name, equals, _ in (pair.partition("=") for pair in given) if equals)
    names = [*(str(each["name"]) for each in prompt.get("arguments") or ()), *typed]
    return {"properties": {name: {"type": "string"} for name in names}}


def own_uri(uri: str) -> tuple[str, str]:
    """The agent in a URI as MCP clients write it, and the URI that the agent itself knows.

    Raises:
        ConfigurationError: it names no agent.
    """
    scheme, mark, rest = uri.partition("://")
    agent, slash, path = rest.partition("/")
    if not (mark and slash and agent):
        raise ConfigurationError(
            f"{uri!r} names no agent", fix="write its name first after the scheme: notes://hello/monday"
        )
    return agent, path if scheme == "fabric" else f"{scheme}://{path}"


def _show(text: str) -> None:
    out.print(seen(text, but="\n\t") if out.is_terminal else text, markup=False, soft_wrap=True)
