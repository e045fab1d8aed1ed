"""From an MCP method and its params to a call on the fabric; the one way there for every door of the gateway.

Above: `modern`, `errands` (for `legacy`), `rest`. Below: `fabric_sdk`'s caller and the current `View`. Params stay
bytes, and so do results.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from difflib import get_close_matches
from itertools import chain, islice
from time import perf_counter
from typing import Any, Final, cast

from msgspec import Struct
from opentelemetry.trace import Span

from fabric.gateway.auditing import Barred
from fabric.gateway.inbound import NAME_BEARING_METHODS
from fabric.gateway.rpc import INVALID_PARAMS, UNSET, Params, Refusal, with_member
from fabric.gateway.view import Route, View
from fabric.logs import speaking
from fabric.observability.metrics_calls import OK, outcome_of
from fabric.observability.metrics_gateway import CALLS, SIZES
from fabric_sdk import Fabric
from fabric_sdk.contracts.asking import ASKS, Asked
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import HandlerFailed
from fabric_sdk.contracts.scope import Trace, scope_for
from fabric_sdk.patterns.asking import follow_up
from fabric_sdk.patterns.call import Call, OnFrame

NAMED: Final = NAME_BEARING_METHODS
"""The methods that reach an agent, and the member of params that says which."""
_MOST_COMPARED: Final = 100
_LONGEST_COMPARED: Final = 64
"""A wrong name must not cost more than a right one."""
_RESOURCE: Final = b'"resource'
"""Without it a result has no link to a resource in it, and holds none."""
_NONE: Final[frozenset[str]] = frozenset()


class Asker(Struct):
    """Who asks, and what goes with the question."""

    principal: str | None = None
    trace: Trace | None = None
    on_frame: OnFrame | None = None
    key: str | None = None
    """The same for every repetition of the same question."""
    roles: frozenset[str] = frozenset()
    """For the platform's own agents: no other is told."""
    span: Span | None = None
    """Of the question, if it is traced."""


class Forwarder:
    """Sends MCP requests to the agents they name."""

    def __init__(self, fabric: Fabric, *, timeout: float) -> None:
        self._fabric = fabric
        self._timeout = timeout

    def route(self, view: View, method: str, named: str | None) -> Route:
        """The agent that `named` belongs to, for whoever sees `view`.

        Raises:
            Refusal: nothing of this name is offered.
        """
        if named is None:
            raise Refusal(INVALID_PARAMS, f"params.{NAMED[method]} must be a string")
        if method == "resources/read":
            try:
                return view.route_uri(named)
            except Refusal as unknown:
                raise Barred(unknown.code, unknown.message, "unknown", None, data=unknown.data) from None
        routes = view.tools if method == "tools/call" else view.prompts
        if (route := routes.get(named)) is None:
            what = "tool" if method == "tools/call" else "prompt"
            raise Barred(INVALID_PARAMS, f"there is no {what} {named!r}{_meant(named, routes)}", "unknown", None)
        return route

    def completion(self, view: View, params: Params, encoded: bytes) -> tuple[Route, bytes]:
        """The agent whose prompt or resource `params` wants completed, and the params as it knows them.

        Raises:
            Refusal: nothing of this name is offered.
        """
        ref = params.ref
        if ref is UNSET or ref.type not in ("ref/prompt", "ref/resource"):
            raise Refusal(INVALID_PARAMS, "params.ref must be a reference to a prompt or a resource")
        if ref.type == "ref/prompt":
            route = self.route(view, "prompts/get", ref.name)
            own = {"type": ref.type, "name": route.name}
        else:
            route = view.route_uri(ref.uri)
            own = {"type": ref.type, "uri": route.name}
        return route, with_member(encoded, "ref", own)

    def forward(self, method: str, named: str, route: Route, params: bytes, asker: Asker) -> Coroutine[Any, Any, Body]:
        """Call the agent; gives the MCP result, still encoded.

        Raises:
            FabricError: see `patterns.call.Caller.call`.
        """
        answer = self._fabric.caller.call(self._call(method, named, route, params, asker))
        if method == "resources/read" and route.name != named:
            answer = _renamed(route, answer)
        return _counted(method, route, params, asker, answer)

    async def answer(
        self,
        method: str,
        named: str,
        route: Route,
        params: bytes,
        asker: Asker,
        *,
        asked: Asked,
        answers: Mapping[str, Any],
    ) -> Body:
        """Go on with a call whose agent asked something.

        Raises:
            FabricError: see `patterns.asking.follow_up`.
        """
        call = self._call(method, named, route, params, asker)
        answer = follow_up(self._fabric.caller, call, asked, answers)
        if method == "resources/read" and route.name != named:
            answer = _renamed(route, answer)
        return await _counted(method, route, params, asker, answer)

    def _call(self, method: str, named: str, route: Route, params: bytes, asker: Asker) -> Call:
        params = own_params(method, named, route, params)
        roles = asker.roles if route.of_platform else _NONE
        scope = scope_for(self._timeout, principal=asker.principal, trace=asker.trace, roles=roles)
        body = Body(encoded=params)
        return Call(
            route.agent,
            method,
            body,
            scope,
            safe=route.safe,
            key=asker.key,
            on_frame=asker.on_frame,
            target=route.name,
        )


async def _counted(method: str, route: Route, params: bytes, asker: Asker, answer: Awaitable[Body]) -> Body:
    """The answer, counted."""
    tool = route.name if method == "tools/call" else ""  # URIs are too many
    calls = CALLS.of(method, route.agent, tool, "platform" if route.of_platform else "read" if route.safe else "write")
    SIZES.request.record(len(params))
    speaking.set(asker)
    outcome, began = OK, perf_counter()
    try:
        result = await answer
        encoded = result.encoded()
        SIZES.response.record(len(encoded))
        return linked(route, result) if _RESOURCE in encoded else result
    except BaseException as failure:
        outcome = outcome_of(failure)
        raise
    finally:
        calls.ended(began, outcome, asker.trace)


def linked(route: Route, result: Body) -> Body:
    """A result whose links, and resources that it holds, have the URIs by which the client reads them."""
    if (mount := route.mount) is None or mount.prefix is None:
        return result
    try:
        value = Body(encoded=result.encoded()).members()  # a copy: a handler in this process may keep what it said
    except ValueError:  # whoever answers the client says so
        return result
    blocks = [value.get("content"), *(each.get("content") for each in _objects(value.get("messages")))]
    changed = False
    for block in chain.from_iterable(map(_objects, blocks)):
        holder = block.get("resource") if block.get("type") == "resource" else block
        if block.get("type") in ("resource", "resource_link") and isinstance(holder, dict):
            about = cast("dict[str, Any]", holder)
            if isinstance(uri := about.get("uri"), str) and (shown := mount.link(uri)) != uri:
                about["uri"], changed = shown, True
    return Body(value) if changed else result


def _objects(said: Any) -> list[dict[str, Any]]:
    """The objects in a list, or the one that stands in its place."""
    several: list[Any] = cast("list[Any]", said) if isinstance(said, list) else [said]
    return [cast("dict[str, Any]", each) for each in several if isinstance(each, dict)]


async def _renamed(route: Route, answer: Coroutine[Any, Any, Body]) -> Body:
    """The contents of a resource under the URIs that the client uses."""
    assert route.mount is not None
    result = await answer
    if ASKS in result.encoded():
        return result
    try:
        value = result.members()
        for content in value.get("contents", ()):
            content["uri"] = route.mount.uri(content["uri"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise HandlerFailed(f"agent {route.agent!r} answered what is no resource") from None
    return Body(value)


def own_params(method: str, named: str, route: Route, params: bytes) -> bytes:
    """The params with the name that the agent itself uses."""
    return params if route.name == named or method not in NAMED else with_member(params, NAMED[method], route.name)


def _meant(named: str, names: Iterable[str]) -> str:
    """A hint at the names that are near, among those of the same agent."""
    if len(named) > _LONGEST_COMPARED:
        return ""
    agent, underscore, own = named.partition("_")
    prefix = agent + underscore
    others = islice((name[len(prefix) :] for name in names if name.startswith(prefix)), _MOST_COMPARED)
    near = [prefix + name for name in get_close_matches(own, others)]
    return f"; did you mean {' or '.join(near)}?" if near else ""
