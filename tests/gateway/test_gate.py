"""The gate of a running gateway: policy by arguments and scopes, limits in the words of HTTP, tools that are searched.

Proves: SE-1, SE-2, SE-6, GW-1, GW-8
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from identity import issuer
from identity.issuer import elliptic
from support.running import Running, running_fabric
from support.waiting import eventually, until

from fabric_sdk import Fabric
from gateway.client import Client, Json, events, refusal
from gateway.test_legacy import Session

POLICY = """
roles:
  admin: []
  caller: []
rules:
  - {name: admins, roles: [admin], on: ["*/*", ">"], then: allow}
  - {name: callers, roles: [caller], on: ["hello/echo", "hello/whoami", "hello/greet", "hello/notes://*"], then: allow}
  - {name: no-shouting, roles: [caller], on: ["hello/echo"], when: "arguments.text.size() > 10", then: deny}
  - {name: counters, scopes: [count], on: ["hello/count"], then: allow}
  - {name: greeters, scopes: [greet], verbs: [prompt], on: ["hello/greet"], then: allow}
"""
ISSUED_BY = elliptic("the issuer's")
LIMITS = """
limits:
  - {name: whoami, per: client, tools: [hello_whoami], clients: [limited], rate: 1/h, burst: 2}
lockout: {after: 5, within: 60, seconds: 1, longest: 1}
"""

Made = Callable[..., Any]


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Running, Path]]:
    """A fabric with a policy and limits of its own."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "limits.yaml").write_text(LIMITS)
    (folder / "jwks.json").write_text(json.dumps({"keys": [ISSUED_BY.public]}))
    env = {
        "FABRIC_POLICY": str(folder / "policy.yaml"),
        "FABRIC_LIMITS": str(folder / "limits.yaml"),
        "FABRIC_JWT_ISSUER": issuer.NAME,
        "FABRIC_JWT_AUDIENCE": issuer.AUDIENCE,
        "FABRIC_JWT_JWKS_URL": (folder / "jwks.json").as_uri(),
        "FABRIC_PUBLIC_URL": "https://fabric.example.com",
    }
    hello = Path(__file__).parents[1] / "agents" / "hello.py"
    with running_fabric(str(hello), env=env) as running:
        yield running, folder / "policy.yaml"


@pytest.fixture
async def client(gated: tuple[Running, Path]) -> AsyncGenerator[Made]:
    """Makes clients, each with a key of its own."""
    running, _ = gated
    async with AsyncExitStack() as stack, Fabric.connect(running.nats_url) as fabric:

        async def make(name: str, **how: Any) -> Client:
            made = await fabric.agent("access").call("create_token", {"name": name, **how})
            client = await stack.enter_async_context(Client.to(running.mcp_url, made["token"]))
            await until(lambda: client.ask("server/discover"), lambda said: said.status_code != 401, what="the key")
            return client

        yield make


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    return await client.ask("tools/call", {"name": tool, "arguments": arguments})


async def listed(client: Client) -> list[str]:
    return [tool["name"] for tool in (await client.result("tools/list"))["tools"]]


async def test_who_has_no_role_sees_nothing_and_what_is_not_allowed_is_as_if_it_were_not_there(client: Made) -> None:
    nobody = await client("nobody")
    assert await listed(nobody) == []
    hidden = refusal(await call(nobody, "hello_echo", text="x"), 400, -32602, number=1)
    absent = refusal(await call(nobody, "hello_nothing", text="x"), 400, -32602, number=1)
    assert hidden["message"].replace("hello_echo", "") == absent["message"].replace("hello_nothing", "")


async def test_the_policy_looks_at_arguments(client: Made) -> None:
    caller = await client("caller", roles=["caller"])
    assert await listed(caller) == ["hello_echo", "hello_whoami"]
    assert (await call(caller, "hello_echo", text="short")).json()["result"]["structuredContent"] == {"result": "short"}
    said = refusal(await call(caller, "hello_echo", text="much too long"), 403, 4030, number=1)
    assert "no-shouting" in said["message"]
    refusal(await call(caller, "hello_echo", other=1), 403, 4030, number=1)  # what cannot be judged is denied
    assert (await caller.ask("resources/read", {"uri": "notes://hello/monday"})).status_code == 200


async def test_the_policy_holds_in_sessions_too(client: Made) -> None:
    session = await Session.open(await client("caller2", roles=["caller"]), "2025-11-25")
    answer = await session.ask("tools/call", {"name": "hello_echo", "arguments": {"text": "much too long"}})
    assert answer["error"]["code"] == 4030
    answer = await session.ask("tools/call", {"name": "hello_echo", "arguments": {"text": "short"}})
    assert answer["result"]["structuredContent"] == {"result": "short"}


async def test_a_key_that_lacks_a_scope_sees_nothing_that_needs_it(client: Made) -> None:
    without, having = await client("without", roles=["caller"]), await client("having", scopes=["count"])
    answer = (await call(having, "hello_count", to=1, pause=0)).json()
    assert answer["result"]["structuredContent"] == {"result": 1}
    assert "hello_count" not in await listed(without)
    assert (await call(without, "hello_count", to=1)).status_code == 400


async def test_who_can_get_a_token_for_more_is_told_for_what(gated: tuple[Running, Path]) -> None:
    running, _ = gated
    tokens = [ISSUED_BY.sign(issuer.claims(scope=scope)).decode() for scope in ("", "count")]
    async with Client.to(running.mcp_url, tokens[0]) as without, Client.to(running.mcp_url, tokens[1]) as having:
        assert await listed(without) == ["hello_count"], "or no client would ever ask for its scope"
        response = await call(without, "hello_count", to=1, pause=0)
        assert refusal(response, 403, 4030, number=1)["message"].startswith("a token with the scope count is needed")
        challenge = response.headers["www-authenticate"]
        assert challenge.startswith('Bearer error="insufficient_scope", scope="count", resource_metadata="https://')
        session = await Session.open(without, "2025-11-25")
        called = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hello_count"}}
        assert (await session.post(called)).headers["www-authenticate"] == challenge
        assert (await without.result("prompts/list"))["prompts"] == [], "only tools are shown before they may be used"
        assert (await call(having, "hello_count", to=1, pause=0)).status_code == 200
        where = running.mcp_url.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")
        assert (await without.http.get(where)).json()["scopes_supported"] == ["count", "greet"]


async def test_a_limit_is_told_in_the_words_of_http(client: Made) -> None:
    limited, other = await client("limited", roles=["caller"]), await client("other", roles=["caller"])
    for _ in range(2):
        assert (await call(limited, "hello_whoami")).status_code == 200
    response = await call(limited, "hello_whoami")
    error = refusal(response, 429, 4290, number=1)
    assert error["data"]["rule"] == "whoami"
    assert int(response.headers["retry-after"]) >= 1
    assert "whoami" in response.headers["ratelimit-policy"]
    assert (await call(limited, "hello_echo", text="x")).status_code == 200
    assert (await call(other, "hello_whoami")).status_code == 200
    session = await Session.open(limited, "2025-11-25")
    call_in_session = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hello_whoami"}}
    assert (await session.post(call_in_session)).status_code == 429


async def test_wrong_tokens_lock_their_address_out_and_nobody_elses_token(gated: tuple[Running, Path]) -> None:
    running, _ = gated
    async with Client.to(running.mcp_url, "wrong") as wrong, Client.to(running.mcp_url, running.token) as right:

        async def status() -> int:
            return (await wrong.ask("server/discover")).status_code

        await until(status, lambda code: code == 429, what="the first lock-out, for which others' mistakes count too")
        await until(status, lambda code: code != 429, what="its end, told by the first of five refusals")
        assert [await status() for _ in range(5)] == [401] * 4 + [429]
        assert (await right.ask("server/discover")).status_code == 200


async def test_what_an_operator_looks_after_is_there_to_be_read_too(gated: tuple[Running, Path]) -> None:
    running, _ = gated
    async with Client.to(running.mcp_url, running.token) as operator:
        resources = (await operator.result("resources/list"))["resources"]
        held = {each["uri"] for each in resources if not each["uri"].startswith("notes://")}
        assert held == {
            "agents://registry/all",
            "approvals://approvals/waiting",
            "audit://audit/latest",
            "dead://durable/oldest",
            "policy://access/files",
            "tasks://durable/latest",
        }
        for uri in held:
            (content,) = (await operator.result("resources/read", {"uri": uri}))["contents"]
            assert (content["uri"], content["mimeType"]) == (uri, "application/json")
            assert json.loads(content["text"]) is not None


async def test_a_large_catalogue_is_searched_and_not_shown(client: Made) -> None:
    seeker = await client("seeker", roles=["admin"], listing="search")
    assert await listed(seeker) == ["search_tools"]
    found: Json = (await call(seeker, "search_tools", query="say a text back")).json()["result"]["structuredContent"]
    names = [tool["name"] for tool in found["tools"]]
    assert "hello_echo" in names
    assert found["tools"][names.index("hello_echo")]["inputSchema"]["required"] == ["text"]
    assert (await call(seeker, "hello_echo", text="x")).status_code == 200
    refusal(await call(seeker, "search_tools", query=7), 400, -32602, number=1)
    session = await Session.open(seeker, "2025-11-25")
    answer = await session.ask("tools/call", {"name": "search_tools", "arguments": {"query": "count"}})
    assert "hello_count" in str(answer["result"]["structuredContent"])


async def test_who_may_little_finds_little(client: Made) -> None:
    seeker = await client("small-seeker", roles=["caller"], listing="search")
    found: Json = (await call(seeker, "search_tools", query="count crash echo hang")).json()["result"]
    assert [tool["name"] for tool in found["structuredContent"]["tools"]] == ["hello_echo"]


async def test_another_policy_holds_at_once_and_subscribers_hear(client: Made, gated: tuple[Running, Path]) -> None:
    running, policy = gated
    caller = await client("watcher", roles=["caller"])
    session = await Session.open(caller, "2025-11-25")
    lines = {**session.headers, "authorization": f"Bearer {caller.token}", "accept": "text/event-stream"}
    heard: list[Json] = []
    begun = asyncio.Event()

    async def listen() -> None:
        async with caller.http.stream("GET", caller.url, headers=lines) as stream:
            begun.set()
            async for line in stream.aiter_lines():
                heard.extend(events(line))

    listening = asyncio.create_task(listen())
    try:
        await asyncio.wait_for(begun.wait(), 10)
        policy.write_text(POLICY.replace('"hello/whoami", ', ""))
        await until(partial(listed, caller), lambda names: names == ["hello_echo"], what="the list")
        await eventually(
            lambda: any(each["method"] == "notifications/tools/list_changed" for each in heard), what="a word of it"
        )
    finally:
        listening.cancel()
        policy.write_text(POLICY)
    await until(partial(listed, caller), lambda names: names == ["hello_echo", "hello_whoami"], what="the list")
    assert await announced(running, "policy") == str(policy)


async def test_other_limits_hold_at_once_and_are_announced(gated: tuple[Running, Path]) -> None:
    running, policy = gated
    limits = policy.with_name("limits.yaml")
    limits.write_text(LIMITS.replace("burst: 2", "burst: 3"))
    assert await announced(running, "limits") == str(limits)


async def announced(running: Running, what: str) -> str:
    """The file of which an event says that it holds now."""
    async with (
        asyncio.timeout(10),
        Fabric.connect(running.nats_url) as fabric,
        fabric.subscribe("fabric.config.changed", filter=f"'{what}' in data.applied", start="all") as events,
    ):
        event = await anext(events)
        assert event.data["process"].startswith("gateway")
        assert event.data["restart"] == []
        return event.data["file"]


async def test_a_revoked_key_opens_nothing_from_that_moment(client: Made, gated: tuple[Running, Path]) -> None:
    running, _ = gated
    revoked = await client("revoked", roles=["caller"])
    assert await listed(revoked) != []
    session = await Session.open(revoked, "2025-11-25")
    async with Fabric.connect(running.nats_url) as fabric:
        await fabric.agent("access").call("revoke_token", {"id": str(revoked.token).split("_")[1]})
    await until(lambda: revoked.ask("tools/list"), lambda said: said.status_code == 401, what="the revoked key")
    assert (await session.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code == 401
