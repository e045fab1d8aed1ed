"""The catalogue as a client sees it: prefixes, pages, and where each name leads.

Proves: GW-2, TR-1
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from fabric.gateway.rpc import Refusal
from fabric.gateway.view import PAGE, View, mounted
from fabric_sdk.contracts.description import Description, Json

ASKS = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


def agent(name: str, *tools: str, **more: Any) -> Description:
    """A description of an agent with these tools."""
    return Description(name=name, tools=[{"name": tool, "inputSchema": {"type": "object"}} for tool in tools], **more)


def view_of(*agents: Description, root: str | None = None) -> View:
    """Every agent under its own name."""
    return View(mounted(agents, root=root))


def pages(view: View, method: str = "tools/list") -> list[list[str]]:
    """The names on each page of a list, as a client that follows the cursors gets them."""
    found: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = view.page(method, cursor)
        found.append([entry["name"] for entry in page["tools"]])
        cursor = page.get("nextCursor")
        if cursor is None:
            return found


def test_pages_hold_everything_once_and_in_order() -> None:
    view = view_of(agent("a", *(f"t{number:04}" for number in range(1203))), agent("b", "last"))
    found = pages(view)
    assert [len(page) for page in found] == [PAGE, PAGE, 204]
    names = [name for page in found for name in page]
    assert names == [f"a_t{number:04}" for number in range(1203)] + ["b_last"]


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
def test_the_last_page_has_no_cursor(count: int) -> None:
    found = pages(view_of(agent("a", *(f"t{number}" for number in range(count)))))
    assert sum(map(len, found)) == count
    assert len(found) == max(1, -(-count // PAGE))


def test_the_order_depends_on_nothing_but_the_names() -> None:
    tools = [f"t{number}" for number in range(800)]
    first = view_of(agent("a", *tools), agent("b", *tools))
    random.Random(5).shuffle(tools)
    second = view_of(agent("b", *tools), agent("a", *tools))
    assert pages(first) == pages(second)


def test_a_cursor_outlives_a_change_of_the_catalogue() -> None:
    tools = [f"t{number:04}" for number in range(700)]
    cursor = view_of(agent("a", *tools)).page("tools/list", None)["nextCursor"]
    del tools[PAGE - 1]  # what the cursor stands on is gone
    (rest,) = [view_of(agent("a", *tools)).page("tools/list", cursor)["tools"]]
    assert [entry["name"] for entry in rest] == [f"a_t{number:04}" for number in range(PAGE, 700)]


@pytest.mark.parametrize("cursor", ["", "x", "YWZ0ZXI6", "YWZ0ZXI", "after:t", "é", "\x00", "=" * 100, "A" * 100_000])
def test_a_cursor_that_was_made_up_is_refused(cursor: str) -> None:
    with pytest.raises(Refusal) as refused:
        view_of(agent("a", "t")).page("tools/list", cursor)
    assert (refused.value.code, refused.value.status) == (-32602, 400)


def test_made_up_cursors_are_not_kept() -> None:
    view = view_of(agent("a", *(f"t{number:04}" for number in range(PAGE + 1))))
    cursor = view.page("tools/list", None)["nextCursor"]
    assert view.page("tools/list", cursor) is not view.page("tools/list", cursor)
    assert view.page("tools/list", None) is view.page("tools/list", None)


def test_names_lead_to_agents() -> None:
    view = view_of(agent("a", "t", "b_t"), agent("a-b", "t"))
    assert {name: (route.agent, route.name) for name, route in view.tools.items()} == {
        "a_t": ("a", "t"),
        "a_b_t": ("a", "b_t"),
        "a-b_t": ("a-b", "t"),
    }


def test_the_root_has_no_prefix_and_keeps_its_names() -> None:
    view = view_of(agent("other", "t"), agent("root", "t", "other_t"), root="root")
    assert pages(view) == [["other_t", "t"]]
    assert view.tools["other_t"].agent == "root"
    assert view_of(agent("other", "t"), root="root").instructions is None
    assert view_of(agent("root", instructions="Ask."), root="root").instructions == "Ask."


def test_a_tool_that_is_described_twice_is_listed_once() -> None:
    assert pages(view_of(agent("a", "t", "t"))) == [["a_t"]]


def test_a_part_of_the_fabric_is_shown_only_as_the_root() -> None:
    registry = agent("registry", "catalogue", kind="platform")
    assert pages(view_of(registry)) == [[]]
    assert pages(view_of(registry, root="registry")) == [["catalogue"]]


def test_only_reading_may_be_done_twice_unasked() -> None:
    tools: list[Json] = [{"name": "read", "annotations": {"readOnlyHint": True}}, {"name": "write", "annotations": {}}]
    view = view_of(Description(name="a", tools=tools))
    assert view.tools["a_read"].safe
    assert not view.tools["a_write"].safe


@pytest.mark.parametrize(
    ("schema", "asks"),
    [
        (ASKS, True),
        ({"type": "object"}, False),
        (None, False),
        ({"type": "object", "properties": {"region": {"type": "number", "x-mcp-header": "Region"}}}, False),
        ({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "no token"}}}, False),
        ({"type": "object", "x-mcp-header": "Root"}, False),
    ],
)
def test_only_a_valid_schema_asks_for_headers(schema: dict[str, Any] | None, asks: bool) -> None:
    tool: dict[str, Any] = {"name": "t"} if schema is None else {"name": "t", "inputSchema": schema}
    assert (view_of(Description(name="a", tools=[tool])).tools["a_t"].schema is not None) is asks


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ("notes://monday", "notes://a/monday"),
        ("file:///etc/hosts", "file://a//etc/hosts"),
        ("https://example.com/x?y=1#z", "https://a/example.com/x?y=1#z"),
        ("urn:isbn:1", "fabric://a/urn:isbn:1"),
        ("notes://", "notes://a/"),
        ("x://b/c", "x://a/b/c"),
        ("fabric://b/c", "fabric://a/fabric://b/c"),
    ],
)
def test_a_uri_leads_back_to_what_the_agent_calls_it(own: str, shown: str) -> None:
    view = view_of(agent("a", resources=[{"uri": own}]), agent("b"))
    (entry,) = view.page("resources/list", None)["resources"]
    assert entry["uri"] == shown == next(iter(view.shown_uris("a", own)))
    route = view.route_uri(shown)
    assert (route.agent, route.name, route.safe) == ("a", own, True)


def test_the_page_that_a_tool_is_shown_in_is_where_the_client_reads_it() -> None:
    meta = {"ui": {"resourceUri": "ui://card", "visibility": ["app"]}, "ui/resourceUri": "ui://card", "x": 1}
    described = Description(
        name="a",
        tools=[{"name": "see", "inputSchema": {}, "_meta": meta}, {"name": "plain", "inputSchema": {}}],
        resources=[{"uri": "ui://card", "mimeType": "text/html;profile=mcp-app"}],
    )
    plain, see = view_of(described).page("tools/list", None)["tools"]
    assert "_meta" not in plain
    (resource,) = view_of(described).page("resources/list", None)["resources"]
    assert see["_meta"] == {
        "ui": {"resourceUri": resource["uri"], "visibility": ["app"]},
        "ui/resourceUri": resource["uri"],
        "x": 1,
    }
    assert view_of(described).route_uri(see["_meta"]["ui"]["resourceUri"]).name == "ui://card"
    assert meta["ui"] == {"resourceUri": "ui://card", "visibility": ["app"]}, "the description itself stays as it was"
    assert view_of(described, root="a").page("tools/list", None)["tools"][1]["_meta"] == meta


@pytest.mark.parametrize("odd", [{"ui": None}, {"ui": {"resourceUri": 5}}, {"ui/resourceUri": []}])
def test_a_meta_that_is_none_of_mcp_apps_stays_as_it_is(odd: Any) -> None:
    described = Description(name="a", tools=[{"name": "t", "inputSchema": {}, "_meta": odd}])
    assert view_of(described).page("tools/list", None)["tools"][0]["_meta"] == odd


@pytest.mark.parametrize("uri", ["", "notes://", "notes://a", "notes://nobody/x", "a/notes", "urn:a"])
def test_a_uri_that_leads_nowhere_is_refused_unless_there_is_a_root(uri: str) -> None:
    with pytest.raises(Refusal) as refused:
        view_of(agent("a")).route_uri(uri)
    assert (refused.value.code, refused.value.data) == (-32602, {"uri": uri})
    route = view_of(agent("a"), agent("root"), root="root").route_uri(uri)
    assert (route.agent, route.name) == ("root", uri)


def test_of_what_may_not_be_read_no_change_is_told() -> None:
    view = View(mounted([agent("a")]), may=lambda verb, _, name: verb != "read" or name != "note://secret")
    assert view.shown_uris("a", "note://open") == {"note://a/open"}
    assert view.shown_uris("a", "note://secret") == set()


def test_what_the_root_lists_is_read_of_the_root_and_of_no_agent_with_such_a_prefix() -> None:
    root = agent("root", resources=[{"uri": "note://reader/a"}])
    view = view_of(root, agent("reader", resources=[{"uri": "note://a"}, {"uri": "note://b"}]), root="root")
    assert view.route_uri("note://reader/a").agent == "root"
    assert view.route_uri("note://reader/b").agent == "reader"
    assert view.shown_uris("root", "note://reader/a") == {"note://reader/a"}
    assert view.shown_uris("reader", "note://a") == set(), "its clients would take it for the root's"
    assert view.shown_uris("reader", "note://b") == {"note://reader/b"}


async def test_where_tools_are_searched_for_no_agent_is_asked_instead() -> None:
    view = View(mounted([agent("search", "tools", "others")]), listing="search")
    assert "search_tools" not in view.tools
    assert pages(view) == [["search_tools"]]
    found = (await view.search({"query": "others"})).value()["structuredContent"]["tools"]
    assert [tool["name"] for tool in found] == ["search_others"]
    assert "search_tools" in View(mounted([agent("search", "tools")])).tools
