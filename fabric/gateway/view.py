"""What one kind of client sees: the catalogue under the names it uses, and where each name leads.

Above: `views`, which makes them; whoever answers a client or calls for one. Below: descriptions from the registry. Pure
and immutable: a new catalogue makes new views. Agents are mounted. One may be the root, whose names stand as they are;
the names of the others get a prefix, as a rule their agent's name: `reader_list` for the tool `list` of `reader`. What
a client may never use is not there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, cast

import orjson

from fabric.gateway.inbound import find_invalid_x_mcp_header, x_mcp_header_map
from fabric.gateway.rpc import INVALID_PARAMS, Refusal
from fabric.identity.identity import Listing
from fabric.search.index import ToolIndex
from fabric.search.tool import NAME as SEARCH
from fabric.search.tool import SEARCH_TOOL, answer
from fabric_sdk.contracts.description import Description, Json
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.task import Policy
from fabric_sdk.routing.retry import is_safe

Verb = Literal["call", "read", "prompt"]
PINNED: Final = "fabric/pinned"
"""In a tool's `_meta`: it is always listed."""
_UI_BEFORE: Final = "ui/resourceUri"
"""In a tool's `_meta`: how MCP Apps began to say `ui.resourceUri`, which libraries still say besides."""
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
    mount: Mount | None = None
    """Under which names the client knows what the agent says."""
    repeatable: bool = True
    """Whether it says that it may be done again where nobody knows whether it was: by a hint, or by a task policy."""
    allowed_by: str | None = None
    """The rule by which the policy allows it whatever the arguments are; `None` where they have a say."""

    of_platform: bool = field(init=False)
    """Whether it leads to a part of the fabric itself."""

    def __post_init__(self) -> None:
        of_platform = self.mount is not None and self.mount.described.kind == "platform"
        object.__setattr__(self, "of_platform", of_platform)  # asked with each call


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    shown: Json


_WEB: Final = frozenset(("http", "https"))
_LISTS: Final = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}


@dataclass(frozen=True, slots=True)
class Mount:
    """An agent, as one kind of client sees it."""

    described: Description
    prefix: str | None = None
    """What comes before its names; `None`: they stand as they are."""
    tools: tuple[str, ...] = ("*",)
    """Patterns; only tools whose own names match one are there."""
    schemes: frozenset[str] = field(init=False, compare=False)
    """Of its own URIs; of pages of the web it may speak, too, so their schemes are not among them."""

    def __post_init__(self) -> None:
        described = self.described
        own = [each["uri"] for each in described.resources]
        own += [each["uriTemplate"] for each in described.resource_templates]
        object.__setattr__(self, "schemes", frozenset(uri.partition("://")[0] for uri in own) - _WEB)

    def name(self, own: str) -> str:
        """An agent's name for something, as the client sees it."""
        return own if self.prefix is None else f"{self.prefix}_{own}"

    def uri(self, own: str) -> str:
        """An agent's URI as the client sees it: the prefix comes first after the scheme."""
        if self.prefix is None:
            return own
        scheme, mark, rest = own.partition("://")
        return f"{scheme}://{self.prefix}/{rest}" if mark and scheme != "fabric" else f"fabric://{self.prefix}/{own}"

    def link(self, uri: str) -> str:
        """A URI in what the agent says, as the client can read it: the agent's own, if it looks like one of those."""
        return self.uri(uri) if uri.partition("://")[0] in self.schemes else uri

    def has(self, tool: str) -> bool:
        """Whether a tool of the agent is there."""
        return any(fnmatchcase(tool, pattern) for pattern in self.tools)


May = Callable[[Verb, str, str], bool]
"""Whether whoever sees this may ever do so: what, of which agent, by its own name."""
Allowing = Callable[[Verb, str, str], str | None]
"""The rule by which they may, whatever the arguments are; `None` where these have a say."""


def anything(verb: Verb, agent: str, name: str) -> bool:
    """No rule."""
    return True


def anyhow(verb: Verb, agent: str, name: str) -> str | None:
    """No rule."""
    return ""


class View:
    """The catalogue as one kind of client sees it."""

    def __init__(
        self,
        mounts: Iterable[Mount],
        *,
        may: May = anything,
        shown: May | None = None,
        allowing: Allowing = anyhow,
        listing: Listing = "all",
    ) -> None:
        """Put together what they may do; `shown`, unless they are the same, are tools that lists have besides."""
        self.tools: dict[str, Route] = {}
        self.prompts: dict[str, Route] = {}
        self._may, self._shown, self._allowing = may, shown or may, allowing
        self._by_prefix: dict[str | None, Mount] = {}
        lists: dict[str, dict[str, Json]] = {method: {} for method in _LISTS}
        for mount in sorted(mounts, key=lambda each: (each.prefix is not None, each.prefix)):
            self._by_prefix[mount.prefix] = mount
            self._add(mount, lists)
        self._all_tools = lists["tools/list"]
        self._index: ToolIndex | None = None
        if listing == "search":
            self.tools.pop(SEARCH, None)  # where tools are found by it, it is the fabric's, whatever an agent offers
            self._all_tools.pop(SEARCH, None)
            lists["tools/list"] = {name: tool for name, tool in self._all_tools.items() if _is_pinned(tool)}
            lists["tools/list"][SEARCH] = SEARCH_TOOL
        self._lists = {method: [_Entry(*item) for item in sorted(shown.items())] for method, shown in lists.items()}
        self._pages: dict[tuple[str, str], Json] = {}
        self._digests: dict[str, bytes] | None = None
        root = self._by_prefix.get(None)
        self._root_uris = frozenset(each["uri"] for each in root.described.resources) if root else frozenset[str]()
        self.instructions = root.described.instructions if root else None

    @property
    def rooted(self) -> bool:
        """Whether there is an agent whose names stand as they are."""
        return None in self._by_prefix

    @property
    def agents(self) -> int:
        """How many agents are in it."""
        return len(self._by_prefix)

    def __repr__(self) -> str:
        return f"<View of {self.agents} agents: {len(self.tools)} tools, {len(self.prompts)} prompts>"

    def _add(self, mount: Mount, lists: dict[str, dict[str, Json]]) -> None:
        """Show what an agent offers; where the root has the same name already, the root's stays."""
        described, may = mount.described, self._may
        agent = described.name
        for tool in described.tools:
            own = tool["name"]
            if not mount.has(own) or not self._shown("call", agent, own):
                continue
            name = mount.name(own)
            schema: Json = tool.get("inputSchema") or {}
            asks = find_invalid_x_mcp_header(schema) is None and bool(x_mcp_header_map(schema))
            safe = is_safe(tool.get("annotations"))
            allowed_by = self._allowing("call", agent, own)
            repeatable = safe or Policy.stated(tool)
            needed = schema if asks else None
            route = Route(agent, own, safe, needed, Policy.of(tool), mount, repeatable, allowed_by)
            self.tools.setdefault(name, route)
            lists["tools/list"].setdefault(name, {**tool, "name": name, **_shown_in(mount, tool)})
        for prompt in described.prompts:
            if may("prompt", agent, prompt["name"]):
                name = mount.name(prompt["name"])
                self.prompts.setdefault(name, Route(agent, prompt["name"], mount=mount))
                lists["prompts/list"].setdefault(name, {**prompt, "name": name})
        for resource in described.resources:
            if may("read", agent, resource["uri"]):
                uri = mount.uri(resource["uri"])
                lists["resources/list"].setdefault(uri, {**resource, "uri": uri})
        for template in described.resource_templates:
            if may("read", agent, template["uriTemplate"]):
                uri = mount.uri(template["uriTemplate"])
                lists["resources/templates/list"].setdefault(uri, {**template, "uriTemplate": uri})

    async def search(self, arguments: Any) -> Body:
        """The result of the tool `search_tools`: all tools of this view, shown or not.

        Raises:
            InvalidParams: the arguments do not fit.
        """
        if self._index is None:  # thousands of tools take a moment
            self._index = await asyncio.to_thread(ToolIndex, list(self._all_tools.values()))
        given = cast("Json", arguments) if isinstance(arguments, dict) else {}
        found = await asyncio.to_thread(answer, self._index, given, lambda _: True)
        return Body({**found, "resultType": "complete"})

    def mount_of(self, uri: str) -> Mount | None:
        """Where a URI that a client uses is mounted, if it is anywhere; what the root lists is the root's."""
        _, mark, rest = uri.partition("://")
        prefix, slash, _ = rest.partition("/")
        if mark and slash and uri not in self._root_uris and (mount := self._by_prefix.get(prefix)) is not None:
            return mount
        return self._by_prefix.get(None)

    def route_uri(self, uri: str) -> Route:
        """Where a URI leads.

        Raises:
            Refusal: no agent of this view has such URIs.
        """
        if (mount := self.mount_of(uri)) is not None:
            own = _own_uri(uri, mount)
            if self._may("read", mount.described.name, own):
                return Route(mount.described.name, own, mount=mount)
        raise Refusal(INVALID_PARAMS, f"there is no resource {uri!r}", data={"uri": uri})

    def has(self, agent: str) -> bool:
        """Whether an agent is mounted anywhere."""
        return any(mount.described.name == agent for mount in self._by_prefix.values())

    def shown_uris(self, agent: str, uri: str) -> set[str]:
        """An agent's URI under all names that the client may use."""
        mounts = self._by_prefix.values() if self._may("read", agent, uri) else ()
        shown = ((mount, mount.uri(uri)) for mount in mounts if mount.described.name == agent)
        return {each for mount, each in shown if mount.prefix is None or each not in self._root_uris}

    def digests(self) -> dict[str, bytes]:
        """What tells apart two states of each list: of tools, prompts, and resources with their templates."""
        if self._digests is None:
            self._digests = {}
            for method, member in _LISTS.items():
                shown = orjson.dumps([entry.shown for entry in self._lists[method]])
                which = "resources" if member == "resourceTemplates" else member
                before = self._digests.get(which, b"")
                self._digests[which] = hashlib.blake2b(before + shown, digest_size=16).digest()
        return self._digests

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


CAPABILITIES: Final[Json] = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "completions": {},
}
"""What every view offers, as MCP server capabilities."""

_key: Callable[[_Entry], str] = lambda entry: entry.key  # noqa: E731 - bisect wants a function


def mounted(descriptions: Iterable[Description], *, root: str | None = None, platform: bool = False) -> list[Mount]:
    """Every agent under its own name, but for the root; those of the platform itself only if wanted, or the root."""
    shown = [each for each in descriptions if platform or each.kind != "platform" or each.name == root]
    return [Mount(each, None if each.name == root else each.name) for each in shown]


def _is_pinned(tool: Json) -> bool:
    """Whether a tool is shown even where the others have to be searched for."""
    meta: Any = tool.get("_meta")
    return isinstance(meta, dict) and bool(cast("Json", meta).get(PINNED))


def _shown_in(mount: Mount, tool: Json) -> Json:
    """What MCP Apps says of the page that a tool is shown in, if it says anything: its URI as the client reads it."""
    meta: Any = tool.get("_meta")
    if mount.prefix is None or not isinstance(meta, dict):
        return Json()
    about: Json = dict(cast("Json", meta))
    if isinstance(page := about.get("ui"), dict) and isinstance(uri := cast("Json", page).get("resourceUri"), str):
        about["ui"] = {**cast("Json", page), "resourceUri": mount.uri(uri)}
    if isinstance(uri := about.get(_UI_BEFORE), str):
        about[_UI_BEFORE] = mount.uri(uri)
    return Json({"_meta": about})


def _own_uri(uri: str, mount: Mount) -> str:
    """A URI that a client uses, as its agent knows it."""
    if mount.prefix is None:
        return uri
    scheme, _, rest = uri.partition("://")
    path = rest.partition("/")[2]
    return path if scheme == "fabric" else f"{scheme}://{path}"


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
