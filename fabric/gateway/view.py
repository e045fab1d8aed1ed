"""What one kind of client sees: the catalogue under the names it uses, and where each name leads.

Above: `forward`, `modern`, `legacy`. Below: descriptions from the registry. Pure and immutable: a new catalogue makes
a new view. One agent may be the root, whose names stand as they are; the names of the others get their agent's name
in front: `reader_list` for the tool `list` of `reader`. An agent's name has no underscore, so the first one splits.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map

from fabric.gateway.rpc import INVALID_PARAMS, Refusal
from fabric_sdk.contracts.description import Description, Json
from fabric_sdk.contracts.task import Policy
from fabric_sdk.routing.retry import is_safe

PAGE: Final = 500
"""Entries of a list that one answer holds."""
TTL_MS: Final = 5_000
"""How long a client may keep a list; a change reaches the gateway at once, so this bounds what a client misses."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a name leads."""

    agent: str
    name: str
    """The name, or URI, that the agent itself uses."""
    safe: bool = True
    """Whether the work may be done twice without harm."""
    schema: Json | None = None
    """The tool's input schema, if it asks for `Mcp-Param-*` headers."""
    policy: Policy | None = None
    """How the tool runs as a task."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    shown: Json


_LISTS: Final = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}


class View:
    """The catalogue as a client sees it."""

    def __init__(self, descriptions: Iterable[Description], *, root: str | None = None) -> None:
        self.tools: dict[str, Route] = {}
        self.prompts: dict[str, Route] = {}
        self._root = root
        self._agents: dict[str, Description] = {}
        lists: dict[str, dict[str, Json]] = {method: {} for method in _LISTS}
        for described in sorted(descriptions, key=lambda each: (each.name != root, each.name)):
            if described.kind == "platform" and described.name != root:
                continue
            self._agents[described.name] = described
            self._add(described, lists)
        self._lists = {method: [_Entry(*item) for item in sorted(shown.items())] for method, shown in lists.items()}
        self._pages: dict[tuple[str, str], Json] = {}
        self.instructions = self._agents[root].instructions if root in self._agents else None

    @property
    def rooted(self) -> bool:
        """Whether the root is there, if there shall be one."""
        return self._root is None or self._root in self._agents

    @property
    def agents(self) -> int:
        """How many agents are in it."""
        return len(self._agents)

    def __repr__(self) -> str:
        return f"<View of {len(self._agents)} agents: {len(self.tools)} tools, {len(self.prompts)} prompts>"

    def _add(self, described: Description, lists: dict[str, dict[str, Json]]) -> None:
        """Show what an agent offers; where the root has the same name already, the root's stays."""
        agent = described.name
        for tool in described.tools:
            name = self._shown_name(agent, tool["name"])
            schema: Json = tool.get("inputSchema") or {}
            asks = find_invalid_x_mcp_header(schema) is None and bool(x_mcp_header_map(schema))
            safe = is_safe(tool.get("annotations"))
            self.tools.setdefault(name, Route(agent, tool["name"], safe, schema if asks else None, Policy.of(tool)))
            lists["tools/list"].setdefault(name, {**tool, "name": name})
        for prompt in described.prompts:
            name = self._shown_name(agent, prompt["name"])
            self.prompts.setdefault(name, Route(agent, prompt["name"]))
            lists["prompts/list"].setdefault(name, {**prompt, "name": name})
        for resource in described.resources:
            uri = self.shown_uri(agent, resource["uri"])
            lists["resources/list"].setdefault(uri, {**resource, "uri": uri})
        for template in described.resource_templates:
            uri = self.shown_uri(agent, template["uriTemplate"])
            lists["resources/templates/list"].setdefault(uri, {**template, "uriTemplate": uri})

    def _shown_name(self, agent: str, name: str) -> str:
        return name if agent == self._root else f"{agent}_{name}"

    def shown_uri(self, agent: str, uri: str) -> str:
        """An agent's URI as the client sees it: the agent's name comes first after the scheme."""
        if agent == self._root:
            return uri
        scheme, mark, rest = uri.partition("://")
        return f"{scheme}://{agent}/{rest}" if mark and scheme != "fabric" else f"fabric://{agent}/{uri}"

    def route_uri(self, uri: str) -> Route:
        """Where a URI leads.

        Raises:
            Refusal: no agent of this view has such URIs.
        """
        scheme, mark, rest = uri.partition("://")
        agent, slash, path = rest.partition("/")
        if mark and slash and agent in self._agents and agent != self._root:
            return Route(agent, path if scheme == "fabric" else f"{scheme}://{path}")
        if self._root in self._agents:
            return Route(str(self._root), uri)
        raise Refusal(INVALID_PARAMS, f"there is no resource {uri!r}", data={"uri": uri})

    def page(self, method: str, cursor: str | None) -> Json:
        """One page of a list, as the MCP result without its envelope.

        Raises:
            Refusal: the cursor was not made here.
        """
        key = (method, cursor or "") if cursor is not None else (method, "\0first")
        if (page := self._pages.get(key)) is None:
            entries = self._lists[method]
            start = 0 if cursor is None else bisect_right(entries, _read_cursor(cursor), key=_key)
            shown = entries[start : start + PAGE]
            page = Json({_LISTS[method]: [entry.shown for entry in shown]})
            if start + PAGE < len(entries):
                page["nextCursor"] = _write_cursor(shown[-1].key)
            if cursor is None:  # the others are seldom asked for, and a client can make up many
                self._pages[key] = page
        return page


CAPABILITIES: Final[Json] = {"tools": {}, "resources": {}, "prompts": {}}
"""What every view offers, as MCP server capabilities; changes are not announced, `ttlMs` bounds their age."""

_key: Callable[[_Entry], str] = lambda entry: entry.key  # noqa: E731 - bisect wants a function


def _write_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(b"after:" + key.encode()).decode()


def _read_cursor(cursor: str) -> str:
    try:
        mark, _, key = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        mark, key = "", ""
    if mark != "after" or not key:
        raise Refusal(INVALID_PARAMS, "the cursor was not made by this server")
    return key


def complete(result: dict[str, Any], server: Json, scope: str) -> bytes:
    """A list result in the current revision's envelope, encoded."""
    return orjson.dumps(
        {
            **result,
            "ttlMs": TTL_MS,
            "cacheScope": scope,
            "resultType": "complete",
            "_meta": {"io.modelcontextprotocol/serverInfo": server},
        }
    )
