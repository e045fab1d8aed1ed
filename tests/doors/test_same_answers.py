"""Who may see and call what is the same at every door, and so is what they are told.

Proves: TR-3, TR-4
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from doors.ways import DOORS, Json, RestWay, Way

Key = Callable[..., str]
WHO: dict[str, Json] = {
    "clerk": {"roles": ["clerk"]},
    "nobody": {},
    "reader": {"scopes": ["books"]},
    "shop": {"agent": "hello"},
    "reporter": {"roles": ["reporter"]},
}


@pytest.fixture(scope="module")
def tokens(key: Key, doors_fabric: object) -> dict[str, str | None]:
    return {name: key(name, **more) for name, more in WHO.items()} | {"wrong": "fab_wrong", "none": None}


SEES: dict[str, set[str]] = {
    "clerk": {"hello_count", "hello_echo", "jobs_add"},
    "nobody": set(),
    "reader": {"hello_refuse"},
    "shop": set(),
}


@pytest.mark.parametrize("who", SEES)
async def test_each_sees_the_same(way: Way, tokens: dict[str, str | None], who: str) -> None:
    said = await way.list("tools", tokens[who])
    assert said.verdict == "done"
    assert {tool["name"] for tool in said.result["tools"]} == SEES[who]
    prompts = await way.list("prompts", tokens[who])
    assert [prompt["name"] for prompt in prompts.result["prompts"]] == (["hello_greet"] if who == "clerk" else [])


async def test_the_operator_sees_all(way: Way, operator: str) -> None:
    names = {tool["name"] for tool in (await way.list("tools", operator)).result["tools"]}
    assert {"hello_hang", "jobs_only_task", "access_create_token", "durable_list_tasks"} <= names


CASES: list[tuple[str, str, str, Json, str]] = [
    ("clerk", "tools/call", "hello_echo", {"text": "hi"}, "done"),
    ("clerk", "tools/call", "hello_echo", {"text": "secret"}, "forbidden"),
    ("clerk", "tools/call", "hello_count", {"wrong": 1}, "reported"),
    ("clerk", "tools/call", "hello_whoami", {}, "unknown"),
    ("clerk", "tools/call", "access_create_token", {"name": "x"}, "unknown"),
    ("clerk", "tools/call", "nothing", {}, "unknown"),
    ("clerk", "prompts/get", "hello_greet", {"name": "Bo"}, "done"),
    ("clerk", "prompts/get", "hello_nothing", {}, "unknown"),
    ("clerk", "resources/read", "notes://hello/monday", {}, "done"),
    ("clerk", "resources/read", "other://hello/monday", {}, "unknown"),
    ("nobody", "tools/call", "hello_echo", {"text": "hi"}, "unknown"),
    ("nobody", "prompts/get", "hello_greet", {"name": "Bo"}, "unknown"),
    ("nobody", "resources/read", "notes://hello/monday", {}, "unknown"),
    ("reader", "tools/call", "hello_refuse", {"reason": "no"}, "reported"),
    ("reporter", "tools/call", "durable_publish_event", {"topic": "news.a", "data": {"bad": False}}, "done"),
    ("reporter", "tools/call", "durable_publish_event", {"topic": "news.a", "data": {"bad": True}}, "forbidden"),
    ("reporter", "tools/call", "durable_publish_event", {"topic": "orders.a", "data": {"bad": False}}, "forbidden"),
    ("reporter", "tools/call", "durable_replay_events", {"topics": ["news.*"]}, "done"),
    ("reporter", "tools/call", "durable_replay_events", {"topics": ["news.*", "orders.a"]}, "forbidden"),
    ("reporter", "tools/call", "durable_replay_events", {}, "forbidden"),
    ("clerk", "tools/call", "durable_replay_events", {}, "unknown"),
    ("wrong", "tools/call", "hello_echo", {"text": "hi"}, "unauthenticated"),
    ("none", "tools/call", "hello_echo", {"text": "hi"}, "unauthenticated"),
]


@pytest.mark.parametrize(("who", "method", "named", "arguments", "verdict"), CASES)
async def test_each_may_do_the_same(
    way: Way, tokens: dict[str, str | None], who: str, method: str, named: str, arguments: Json, verdict: str
) -> None:
    assert (await way.ask(method, named, arguments, tokens[who])).verdict == verdict


@pytest.mark.parametrize("door", DOORS)
async def test_a_limit_holds_at_each(url: str, key: Key, door: str) -> None:
    token = key(f"few-{door}", roles=["clerk"])
    async with DOORS[door](url) as way:
        assert (await way.ask("tools/call", "hello_echo", {"text": "1"}, token)).verdict == "done"
        assert (await way.ask("tools/call", "hello_echo", {"text": "2"}, token)).verdict == "limited"


async def test_a_limit_is_one_for_all_doors(url: str, key: Key) -> None:
    token, verdicts = key("few-everywhere", roles=["clerk"]), list[str]()
    for door in DOORS.values():
        async with door(url) as way:
            verdicts.append((await way.ask("tools/call", "hello_echo", {"text": "1"}, token)).verdict)
    assert verdicts == ["done", "limited", "limited"]


@pytest.mark.parametrize("door", DOORS)
async def test_who_is_refused_as_a_task_alone_takes_no_place(url: str, key: Key, door: str) -> None:
    """The place of each such call was never free again: so many of them, and all others were refused."""
    token = key(f"alone-{door}", roles=["admin"])
    async with DOORS[door](url) as way:
        for _ in range(2):
            assert (await way.ask("tools/call", "jobs_only_task", {}, token)).verdict == "a task alone"
        assert (await way.ask("tools/call", "hello_echo", {"text": "1"}, token)).verdict == "done"


@pytest.mark.parametrize("door", DOORS)
async def test_arguments_that_nobody_can_be_shown_take_no_place(url: str, key: Key, door: str) -> None:
    """A number that is too large failed the gateway; at one door, one that is none took a place for good."""
    token = key(f"alone-asking-{door}", roles=["asked", "clerk"])
    malformed = {"rest": "malformed"}.get(door, "unknown")  # MCP has one code for both
    async with DOORS[door](url) as way:
        for _ in range(2):
            assert (await way.ask("tools/call", "hello_count", {"to": 10**400}, token)).verdict == malformed
        if isinstance(way, RestWay):
            lines = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            async with httpx.AsyncClient(base_url=url, headers=lines, trust_env=False) as http:
                for _ in range(2):
                    told = await http.post("/api/tools/hello_count", content=b'{"to": 1e999}')
                    assert told.status_code == 400
        assert (await way.ask("tools/call", "hello_echo", {"text": "1"}, token)).verdict == "done"


async def test_results_are_the_same(way: Way, operator: str) -> None:
    said = await way.ask("tools/call", "hello_echo", {"text": "žluťoučký"}, operator)
    assert said.result["structuredContent"] == {"result": "žluťoučký"}
    assert said.result["content"] == [{"type": "text", "text": "žluťoučký"}]


async def test_a_deadline_passes_at_each(url: str, operator: str) -> None:
    async def hang(door: str) -> str:
        async with DOORS[door](url) as way:
            return (await way.ask("tools/call", "hello_hang", {}, operator)).verdict

    assert await asyncio.gather(*map(hang, DOORS)) == ["late"] * len(DOORS)


async def test_who_searches_is_shown_a_search(way: Way, key: Key) -> None:
    token = key("seeker", roles=["clerk"], listing="search")
    assert [tool["name"] for tool in (await way.list("tools", token)).result["tools"]] == ["search_tools"]
    said = await way.ask("tools/call", "search_tools", {"query": "say it back"}, token)
    assert said.result["structuredContent"]["tools"][0]["name"] == "hello_echo"
