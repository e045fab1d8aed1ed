"""Links to resources, and resources that a result holds, have the URIs by which the client reads them.

Proves: GW-2, GW-4
"""

from __future__ import annotations

from typing import Any

import pytest

from fabric.gateway.forward import linked
from fabric.gateway.view import Mount, Route, View
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body

DESCRIBED = Description(
    name="shop",
    tools=[{"name": "t", "inputSchema": {"type": "object"}}],
    resources=[{"uri": "notes://today"}, {"uri": "https://example.com/listed"}],
    resource_templates=[{"uriTemplate": "shelf://{what}"}],
)


def route(prefix: str | None = "shop") -> Route:
    return Route("shop", "t", mount=Mount(DESCRIBED, prefix))


def link(uri: Any) -> dict[str, Any]:
    return {"type": "resource_link", "uri": uri, "name": "n"}


def held(uri: Any) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "text": "x"}}


@pytest.mark.parametrize("made", [link, held])
@pytest.mark.parametrize("uri", ["notes://today", "shelf://hats/7"])
def test_what_a_result_points_at_is_read_by_the_same_uri(made: Any, uri: str) -> None:
    result = {"content": [{"type": "text", "text": uri}, made(uri)], "isError": False}
    said = linked(route(), Body(result)).value()
    shown = Mount(DESCRIBED, "shop").uri(uri)
    assert result["content"] == [{"type": "text", "text": uri}, made(uri)], "a handler may keep what it said"
    assert said == {"content": [{"type": "text", "text": uri}, made(shown)], "isError": False}
    assert View([Mount(DESCRIBED, "shop")]).route_uri(shown).name == uri


def test_a_prompts_messages_are_looked_through_too() -> None:
    message = {"role": "user", "content": held("notes://today")}
    said = linked(route(), Body({"messages": [message]})).value()
    assert said["messages"] == [{"role": "user", "content": held("notes://shop/today")}]


@pytest.mark.parametrize(
    "content",
    [
        [link("https://example.com/a"), link("https://example.com/listed")],  # pages of the web are read as they are
        [link("file:///etc/motd")],  # nothing of this agent's
        [link(None), held(5), {"type": "resource"}, {"type": "resource", "resource": []}, None, 7],
        "resource",
        None,
    ],
)
def test_what_is_not_the_agents_own_stays_as_it_is(content: Any) -> None:
    body = Body({"content": content, "messages": [None, {"content": "x"}, {}]})
    assert linked(route(), body) is body


@pytest.mark.parametrize("body", [Body(encoded=b'["resource"'), Body(encoded=b'["resource"]')])
def test_what_is_no_result_is_passed_on(body: Body) -> None:
    assert linked(route(), body) is body


def test_the_roots_uris_are_its_own() -> None:
    body = Body({"content": [link("notes://today")]})
    assert linked(route(None), body) is body
