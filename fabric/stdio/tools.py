"""Arguments that a tool wants to see in headers too: its schema says which, by `x-mcp-header`.

Above: `bridge`. Below: `gateway`. Few tools want any, so nothing is asked ahead: the gateway refuses a call that lacks
them, then the tool is looked up, and remembered. The SDK has functions like those below, but a second to import them is
more than a host shall wait for.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
import orjson
from msgspec import UNSET

from fabric.stdio.gateway import Gateway
from fabric.stdio.messages import Params, header_value, headers, members, read

Wanted = dict[tuple[str, ...], str]
"""The name of a header, by the path to the argument that it repeats."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_ENVELOPE: Final = "io.modelcontextprotocol/"


class _Tool(msgspec.Struct):
    name: str
    schema: Any = msgspec.field(default=None, name="inputSchema")


class _Page(msgspec.Struct):
    tools: list[_Tool]
    next: str | None = msgspec.field(default=None, name="nextCursor")


class Tools:
    """Which arguments each tool wants to see, as far as that is known."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._wanted: dict[str, Wanted] = {}

    def headers(self, params: Params) -> dict[str, str]:
        """The headers of a call."""
        wanted = self._wanted.get(params.name) if isinstance(params.name, str) else None
        if not wanted or params.arguments is UNSET:
            return {}
        return param_headers(wanted, msgspec.json.decode(params.arguments))

    async def learn(self, params: Params) -> None:
        """Look up the tool that a call names, on behalf of its sender. Raises as `Gateway.ask` does."""
        meta = {key: value for key, value in members(params.meta).items() if key.startswith(_OF_THE_ENVELOPE)}
        asked: dict[str, Any] = {"_meta": meta}
        while (page := await self._page(asked, params)) is not None:
            for tool in page.tools:
                if tool.name == params.name:
                    self._wanted[tool.name] = wanted_headers(tool.schema)
                    return
            if page.next is None:
                return
            asked["cursor"] = page.next

    async def _page(self, asked: dict[str, Any], params: Params) -> _Page | None:
        method = "tools/list"
        body = orjson.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": asked})
        async with self._gateway.ask(body, headers(method, params)) as reply:
            async for line in reply.messages:
                if (result := read(line).result) is not UNSET:
                    return msgspec.json.decode(result, type=_Page)
        return None


def wanted_headers(schema: Any, path: tuple[str, ...] = ()) -> Wanted:
    """The headers that a tool with this schema of arguments wants."""
    found: Wanted = {}
    for name, each in members(members(schema).get("properties")).items():
        header = members(each).get("x-mcp-header")
        if isinstance(header, str) and _TOKEN.fullmatch(header):
            found[*path, name] = header
        found |= wanted_headers(each, (*path, name))
    return found


def param_headers(wanted: Wanted, arguments: Any) -> dict[str, str]:
    """Those headers, for arguments that are there and have a form as text."""
    lines: dict[str, str] = {}
    for path, header in wanted.items():
        value = arguments
        for step in path:
            value = members(value).get(step)
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, str | int | float):
            lines[f"mcp-param-{header}"] = header_value(str(value))
    return lines
