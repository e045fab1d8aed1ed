"""From an MCP method and its params to a call on the fabric; the one way there for every door of the gateway.

Above: `modern`, `legacy`. Below: `fabric_sdk`'s caller and the current `View`. Params stay bytes, and so do results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp.shared.inbound import NAME_BEARING_METHODS

from fabric.gateway.catalogue import CatalogueKeeper
from fabric.gateway.rpc import INVALID_PARAMS, Refusal, with_member
from fabric.gateway.view import Route
from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Trace, scope_for
from fabric_sdk.patterns.call import Call, OnFrame

NAMED: Final = NAME_BEARING_METHODS
"""The methods that reach an agent, and the member of params that says which."""


@dataclass(slots=True)
class Asker:
    """Who asks, and what goes with the question."""

    principal: str | None = None
    trace: Trace | None = None
    on_frame: OnFrame | None = None


class Forwarder:
    """Sends MCP requests to the agents they name."""

    def __init__(self, fabric: Fabric, catalogue: CatalogueKeeper, *, timeout: float) -> None:
        self._fabric = fabric
        self._catalogue = catalogue
        self._timeout = timeout

    def route(self, method: str, named: str | None) -> Route:
        """The agent that `named` belongs to.

        Raises:
            Refusal: nothing of this name is offered.
        """
        if named is None:
            raise Refusal(INVALID_PARAMS, f"params.{NAMED[method]} must be a string")
        view = self._catalogue.view
        if method == "resources/read":
            return view.route_uri(named)
        route = (view.tools if method == "tools/call" else view.prompts).get(named)
        if route is None:
            raise Refusal(INVALID_PARAMS, f"there is no {'tool' if method == 'tools/call' else 'prompt'} {named!r}")
        return route

    async def forward(self, method: str, named: str, route: Route, params: bytes, asker: Asker) -> Body:
        """Call the agent and return the MCP result, still encoded.

        Raises:
            FabricError: see `patterns.call.Caller.call`.
        """
        if route.name != named:
            params = with_member(params, NAMED[method], route.name)
        scope = scope_for(self._timeout, principal=asker.principal, trace=asker.trace)
        call = Call(route.agent, method, Body(encoded=params), scope, safe=route.safe, on_frame=asker.on_frame)
        result = await self._fabric.caller.call(call)
        return self._with_shown_uris(route, result) if method == "resources/read" and route.name != named else result

    def _with_shown_uris(self, route: Route, result: Body) -> Body:
        """The contents of a resource under the URIs that the client uses."""
        value = result.value()
        for content in value.get("contents", ()):
            content["uri"] = self._catalogue.view.shown_uri(route.agent, content["uri"])
        return Body(value)
