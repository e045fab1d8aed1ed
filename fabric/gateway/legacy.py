"""The handshake revisions (2024-11-05 to 2025-11-25) through the official SDK's own HTTP transport.

Above: `app`, which chooses the era. Below: `forward`, as for the current revision. The SDK keeps the session and
speaks the wire; every request that an agent or the catalogue answers is taken from it before its handlers are.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections import deque
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import orjson
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import EmptyResult, ListPromptsResult, ListResourcesResult, ListResourceTemplatesResult, ListToolsResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from fabric.gateway import rpc
from fabric.gateway.catalogue import CatalogueKeeper
from fabric.gateway.forward import NAMED, Asker, Forwarder
from fabric.gateway.http import Receive, Scope, Send
from fabric.gateway.rpc import Refusal
from fabric.gateway.tasks import check_may_be_call
from fabric_sdk import FabricError
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import to_wire

VERSIONS: Final = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)

_LISTS: Final = frozenset(("tools/list", "resources/list", "resources/templates/list", "prompts/list"))
_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
_MOST_WAITING: Final = 256
"""Frames that wait for a client that reads slowly; beyond it, the oldest is dropped."""
_NEW: Final = frozenset(("resultType", "ttlMs", "cacheScope"))
"""Members of a result that these revisions do not know."""


class Legacy:
    """The handshake revisions' endpoint."""

    def __init__(
        self, forwarder: Forwarder, catalogue: CatalogueKeeper, *, server: dict[str, Any], max_body: int
    ) -> None:
        self._forwarder = forwarder
        self._catalogue = catalogue
        mcp = _server(server)
        mcp.middleware[:] = [self._take]
        # Host and Origin were checked before, for both eras alike.
        self._manager = StreamableHTTPSessionManager(mcp, max_request_body_size=max_body)

    def run(self) -> AbstractAsyncContextManager[None]:
        """Held open while the gateway serves."""
        return self._manager.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, principal: str) -> None:
        """Serve one HTTP request; a session belongs to the principal that opened it."""
        token = AccessToken(token="", client_id=principal, scopes=[])
        await self._manager.handle_request({**scope, "user": AuthenticatedUser(token)}, receive, send)

    async def _take(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answer from the catalogue or an agent; leave handshake, ping and the rest to the SDK."""
        params = dict(ctx.params or {})
        try:
            if ctx.method in _LISTS:
                return self._list(ctx.method, params.get("cursor"))
            if ctx.method in NAMED:
                return await self._forward(ctx, params)
        except Refusal as refusal:
            raise MCPError(code=refusal.code, message=refusal.message, data=refusal.data) from None
        return await call_next(ctx)

    def _list(self, method: str, cursor: Any) -> dict[str, Any]:
        if not (cursor is None or isinstance(cursor, str)):
            raise Refusal(rpc.INVALID_PARAMS, "params.cursor must be a string")
        return self._catalogue.view.page(method, cursor)

    async def _forward(self, ctx: ServerRequestContext[Any, Any], params: dict[str, Any]) -> dict[str, Any]:
        named = params.get(NAMED[ctx.method])
        is_resource = ctx.method == "resources/read"
        try:
            route = self._forwarder.route(ctx.method, named if isinstance(named, str) else None)
            check_may_be_call(route)
            level = _state(ctx).get(_LOG_LEVEL, rpc.LOG_LEVELS[0])
            frames = _Frames(ctx, rpc.levels_from(level))
            asker = Asker(_principal(ctx), on_frame=frames.hear)
            result = await self._forwarder.forward(ctx.method, str(named), route, _encoded(params, level), asker)
            await frames.all_passed_on()
        except Refusal as refusal:
            code = rpc.RESOURCE_NOT_FOUND if is_resource and isinstance(named, str) else refusal.code
            raise MCPError(code=code, message=refusal.message, data=refusal.data) from None
        except FabricError as failure:
            wire = to_wire(failure)
            if is_resource and wire["code"] == rpc.INVALID_PARAMS:
                wire["code"] = rpc.RESOURCE_NOT_FOUND
            raise MCPError(code=wire["code"], message=wire["message"], data=wire.get("data")) from failure
        return {member: value for member, value in result.value().items() if member not in _NEW}


def _server(about: dict[str, Any]) -> Server[Any]:
    """A server whose handlers only say which capabilities there are: `_take` answers before they are reached."""

    async def tools(ctx: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[])

    async def resources(ctx: Any, params: Any) -> ListResourcesResult:
        return ListResourcesResult(resources=[])

    async def templates(ctx: Any, params: Any) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=[])

    async def prompts(ctx: Any, params: Any) -> ListPromptsResult:
        return ListPromptsResult(prompts=[])

    async def set_level(ctx: Any, params: Any) -> EmptyResult:
        _state(ctx)[_LOG_LEVEL] = params.level
        return EmptyResult()

    with warnings.catch_warnings():  # logging is deprecated in the current revision, which this is not for
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        return Server(  # pyright: ignore[reportDeprecated]
            about["name"],
            version=about["version"],
            on_list_tools=tools,
            on_list_resources=resources,
            on_list_resource_templates=templates,
            on_list_prompts=prompts,
            on_set_logging_level=set_level,
        )


def _encoded(params: dict[str, Any], level: str) -> bytes:
    """The params as an agent wants them: these revisions name a log level once, and show all until then."""
    meta: dict[str, Any] = params.get("_meta") or {}
    wanted = {**params, "_meta": {_LOG_LEVEL: level, **meta}}
    try:
        return orjson.dumps(wanted)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(wanted).encode()


def _state(ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
    """What is known of the session, for as long as it lasts; the SDK has it, and shows it to no handler so far."""
    return ctx.session._connection.state  # pyright: ignore[reportPrivateUsage]


def _principal(ctx: ServerRequestContext[Any, Any]) -> str | None:
    user = ctx.request.scope.get("user") if ctx.request is not None else None
    return user.access_token.client_id if isinstance(user, AuthenticatedUser) else None


class _Frames:
    """Passes progress and log entries on to the client, in order, and all of them before the answer."""

    def __init__(self, ctx: ServerRequestContext[Any, Any], levels: tuple[str, ...]) -> None:
        self._ctx = ctx
        self._levels = levels
        self._waiting: deque[tuple[str, Body]] = deque(maxlen=_MOST_WAITING)
        self._passing: asyncio.Task[None] | None = None

    def hear(self, kind: str, frame: Body) -> None:
        self._waiting.append((kind, frame))
        if self._passing is None or self._passing.done():
            self._passing = asyncio.get_running_loop().create_task(self._pass_on())

    async def all_passed_on(self) -> None:
        if self._passing is not None:
            await self._passing

    async def _pass_on(self) -> None:
        session = self._ctx.session
        while self._waiting:
            kind, frame = self._waiting.popleft()
            said: dict[str, Any] = frame.value()
            if kind == "progress":
                await session.report_progress(said["progress"], said.get("total"), said.get("message"))
            elif kind == "log" and said["level"] in self._levels:
                await session.send_log_message(  # pyright: ignore[reportDeprecated] - not in these revisions
                    said["level"], said["data"], said.get("logger"), self._ctx.request_id
                )
