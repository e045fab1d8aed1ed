"""A server object of the `mcp` SDK or of `fastmcp`, served as an agent unchanged.

Above: worker processes. Below: the SDK's own per-request kernel, so that validation, middleware, lifespan and error
texts are exactly what the server's author sees elsewhere. Each fabric call becomes one request of the current
revision: nothing is kept between calls, which is what lets a pool serve it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import anyio
from mcp.server import MCPServer
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    SubscriptionBus,
    ToolsListChanged,
)
from mcp.shared.dispatcher import CallOptions
from mcp.shared.transport_context import TransportContext
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from mcp_types.version import LATEST_MODERN_VERSION

from fabric_sdk import Context, Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.description import Description, Json
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.subjects import checked_agent_name
from fabric_sdk.pipeline import Request
from fabric_sdk.results import WRAPPED

_TRANSPORT: Final = TransportContext(kind="fabric", can_send_request=True)
_INNER: Final = ("_lowlevel_server", "_mcp_server")
"""Where `mcp`'s MCPServer and `fastmcp`'s FastMCP keep their low-level server."""
_MAX_PAGES: Final = 1000
_LISTS: Final[Mapping[type[ServerEvent], str]] = {
    ToolsListChanged: "tools",
    ResourcesListChanged: "resources",
    PromptsListChanged: "prompts",
}
_CHANGED: Final[Mapping[str, Literal["tools", "resources", "prompts"]]] = {
    "notifications/tools/list_changed": "tools",
    "notifications/resources/list_changed": "resources",
    "notifications/prompts/list_changed": "prompts",
}


class HostedServer:
    """One foreign server, as something a worker can serve."""

    def __init__(self, server: Any, *, name: str | None = None, traits: Json | None = None) -> None:
        self._server = _low_level(server)
        tools = getattr(server, "_tool_manager", None)
        self._tools = tools if isinstance(server, MCPServer) else None
        self._bus: SubscriptionBus | None = getattr(cast("Any", server), "_subscriptions", None)
        self._name = checked_agent_name(name or _agent_name(self._server.name))
        self._traits = traits or {}
        self._state: Any = None

    async def describe(self) -> Description:
        server = self._server
        serves = server.get_request_handler
        version = server.version or ""
        return Description(
            name=self._name,
            version=version or "0.0.0",
            title=server.title,
            description=server.description,
            instructions=server.instructions,
            tools=await self._list("tools/list", "tools"),
            resources=await self._list("resources/list", "resources"),
            resource_templates=await self._list("resources/templates/list", "resourceTemplates"),
            prompts=await self._list("prompts/list", "prompts"),
            completions=serves("completion/complete") is not None,
            **self._traits,
        )

    @asynccontextmanager
    async def lifespan(self, fabric: Fabric) -> AsyncGenerator[None]:
        telling: set[asyncio.Task[None]] = set()

        def tell(event: ServerEvent) -> None:
            task = asyncio.create_task(fabric.transport.publish(Message(subjects.changed(self._name), _change(event))))
            telling.add(task)
            task.add_done_callback(telling.discard)

        stop = self._bus.subscribe(tell) if self._bus is not None else None
        try:
            async with self._server.lifespan(self._server) as state:
                self._state = state
                yield
        finally:
            if stop is not None:
                stop()

    async def handle(self, context: Context, request: Request) -> Body:
        try:
            params = request.params.members()
        except ValueError as broken:
            raise errors.InvalidParams(f"params: {broken}") from None
        context.params = params
        result = await self._serve(request.method, params, context)
        if "structuredContent" in result and self._wraps(params.get("name")):
            result["_meta"] = {**(result.get("_meta") or {}), WRAPPED: True}
        return Body(result)

    def _wraps(self, tool: Any) -> bool:
        """Whether the `mcp` SDK puts what this tool returns into `{"result": …}`; fastmcp marks such results itself."""
        found = self._tools.get_tool(tool) if self._tools is not None else None
        return found is not None and found.fn_metadata.wrap_output

    async def _serve(self, method: str, params: Json, context: Context) -> Json:
        """One request through the SDK's kernel."""
        meta: Json = {
            PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
            CLIENT_CAPABILITIES_META_KEY: {},
            "progressToken": "fabric",
            **(params.get("_meta") or {}),
        }
        dispatch = _Dispatch(context)
        connection = Connection.from_envelope(
            LATEST_MODERN_VERSION, meta.get(CLIENT_INFO_META_KEY), meta[CLIENT_CAPABILITIES_META_KEY], outbound=dispatch
        )
        meta[PROTOCOL_VERSION_META_KEY] = LATEST_MODERN_VERSION
        # What the client wrote stands far above by now, and whether it is sampled was decided at the edge.
        meta.pop("traceparent", None)
        meta.pop("tracestate", None)
        if (trace := context.trace) is not None:
            meta |= {"traceparent": trace.traceparent} | ({"tracestate": trace.tracestate} if trace.tracestate else {})
        try:
            return await serve_one(
                self._server,
                dispatch,
                method,
                {**params, "_meta": meta},
                connection=connection,
                lifespan_state=self._state,
            )
        except Exception as failure:  # the SDK's own boundary: what it does not know is logged and sanitised there
            error = modern_error_data(failure)
            raise errors.from_wire({"code": error.code, "message": error.message, "data": error.data}) from failure

    async def _list(self, method: str, key: str) -> list[Json]:
        """All pages of a list; nothing if the server has no such list."""
        if self._server.get_request_handler(method) is None:
            return []
        found: list[Json] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._serve(method, {} if cursor is None else {"cursor": cursor}, _nobody())
            found += page.get(key, [])
            cursor = page.get("nextCursor")
            if cursor is None:
                return found
        raise errors.ConfigurationError(f"{self._name}: {method} does not end after {_MAX_PAGES} pages")


@dataclass
class _Dispatch:
    """The SDK's view of one fabric call: notifications become frames, requests to the client are questions."""

    context: Context
    transport: TransportContext = _TRANSPORT
    request_id: int = 1
    message_metadata: None = None
    can_send_request: bool = True
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> Json:
        return await self.context.ask(method, dict(params or {}))

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        said = dict(params or {})
        if method == "notifications/progress":
            await self.context.progress(said.get("progress", 0), said.get("total"), said.get("message"))
        elif method == "notifications/message":
            await self.context.log(said.get("level", "info"), said.get("data"), logger=said.get("logger"))
        elif method == "notifications/resources/updated":
            await self.context.resource_updated(str(said.get("uri")))
        elif (which := _CHANGED.get(method)) is not None:
            await self.context.list_changed(which)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        await self.context.progress(progress, total, message)


def _change(event: ServerEvent) -> Body:
    """What a server says on its own bus, in the fabric's words."""
    return Body({"resource": str(event.uri)} if isinstance(event, ResourceUpdated) else {"list": _LISTS[type(event)]})


def _nobody() -> Context:
    """For what no caller asked for."""
    return Context(scope_for(60.0))


def _low_level(server: Any) -> Server[Any]:
    for candidate in (server, *(getattr(server, attribute, None) for attribute in _INNER)):
        if isinstance(candidate, Server):
            return cast("Server[Any]", candidate)
    raise errors.ConfigurationError(
        f"{type(server).__name__} is no MCP server object this version knows",
        fix="serve an mcp MCPServer, an mcp low-level Server, or a fastmcp FastMCP",
    )


def _agent_name(server_name: str) -> str:
    """The nearest agent name: `My Server` becomes `my-server`."""
    return re.sub(r"[^a-z0-9]+", "-", server_name.lower()).strip("-")[:63].strip("-") or "server"
