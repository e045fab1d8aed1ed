"""`subscriptions/listen`, and what subscribers of both eras are told: at any gateway, of what changes anywhere.

Proves: TR-1, GW-4, GW-5
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver import Context as McpContext
from support.replicas import Replica, until_ready
from support.running import Running

from fabric.connectors.hosted import HostedServer
from fabric_sdk import Agent, Context, Policy
from gateway.asker import Asker
from gateway.client import CAPABILITIES_KEY, Client, Json, headers, meta, refusal, request
from gateway.conftest import knows
from gateway.handshake import Heard, Session
from gateway.probe import serving

METHOD = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
TASKS: Json = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


@pytest.fixture
async def clients(three: list[Replica], asker: Asker, bare_fabric: Running) -> AsyncGenerator[list[Client]]:
    """A client of each gateway."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield [Client(replica.url, bare_fabric.token, http) for replica in three]


@asynccontextmanager
async def listening(client: Client, wanted: Json, *, number: Any = 1) -> AsyncGenerator[Heard]:
    content = json.dumps(request(METHOD, {"notifications": wanted}, number=number))
    lines = headers(METHOD, token=client.token)
    async with client.http.stream("POST", client.url, content=content, headers=lines) as response:
        assert response.status_code == 200, await response.aread()
        heard = Heard(response, response.aiter_lines())
        first = await heard.next()
        assert first["method"] == ACKNOWLEDGED
        assert first["params"] == {"notifications": wanted, "_meta": {SUBSCRIPTION: number}}
        yield heard


async def touch(client: Client, uri: str) -> None:
    await client.call("asker_touch", uri=uri)


async def test_what_is_wanted_is_told_and_nothing_else(clients: list[Client]) -> None:
    a, b, c = clients
    one, two = "note://asker/one", "note://asker/two"
    async with (
        listening(a, {"resourceSubscriptions": [one]}, number="x") as first,
        listening(b, {"resourceSubscriptions": [one, two]}, number=7) as both,
    ):
        await touch(c, "note://two")
        await touch(c, "note://one")
        told = await first.next()
        assert told["method"] == "notifications/resources/updated"
        assert told["params"] == {"uri": one, "_meta": {SUBSCRIPTION: "x"}}
        told = [await both.next(), await both.next()]
        assert [each["params"] for each in told] == [{"uri": uri, "_meta": {SUBSCRIPTION: 7}} for uri in (two, one)]


async def test_lists_that_change_are_told_to_subscribers_of_both_eras_at_every_gateway(
    clients: list[Client], bare_fabric: Running
) -> None:
    session = await Session.open(clients[2].http, clients[2].url, bare_fabric.token)
    async with (
        listening(clients[0], {"toolsListChanged": True}) as tools,
        listening(clients[1], {"promptsListChanged": True, "toolsListChanged": True}) as both,
        session.listen(clients[2].url) as old,
        AsyncExitStack() as pool,
    ):
        await old.begun()
        offer: list[Any] = []
        for tool in (Asker().echo, Asker().order):  # a pool that is new, and then offers more
            offer.append(tool)
            late = Agent("late")
            for each in offer:
                late.tool(each)
            await pool.enter_async_context(serving(bare_fabric.nats_url, late))
            for stream in (tools, both, old):
                assert (await stream.next())["method"] == "notifications/tools/list_changed"
            for client in clients:
                await knows(client, f"late_{tool.__name__}")


async def test_an_agent_that_says_so_has_its_list_told(clients: list[Client], bare_fabric: Running) -> None:
    agent = Agent("changing")

    @agent.tool
    async def change(ctx: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        await ctx.list_changed("prompts")

    async with serving(bare_fabric.nats_url, agent):
        for client in clients:
            await knows(client, "changing_change")
        async with (
            listening(clients[0], {"promptsListChanged": True}) as prompts,
            listening(
                clients[1], {"resourcesListChanged": True, "resourceSubscriptions": ["note://asker/one"]}
            ) as not_so,
        ):
            await clients[2].call("changing_change")
            assert (await prompts.next())["method"] == "notifications/prompts/list_changed"
            await touch(clients[2], "note://one")
            assert (await not_so.next())["method"] == "notifications/resources/updated"


async def test_a_hosted_server_tells_of_its_resources_too(clients: list[Client], bare_fabric: Running) -> None:
    server = MCPServer("hosted")

    @server.resource("note://here")
    def note() -> str:  # pyright: ignore[reportUnusedFunction]
        return "text"

    @server.tool()
    async def change(ctx: McpContext[Any, Any]) -> str:  # pyright: ignore[reportUnusedFunction]
        await ctx.notify_resource_updated("note://here")
        return "done"

    async with serving(bare_fabric.nats_url, HostedServer(server)):
        await knows(clients[0], "hosted_change")
        await knows(clients[1], "hosted_change")
        async with listening(clients[0], {"resourceSubscriptions": ["note://hosted/here"]}) as stream:
            await clients[1].call("hosted_change")
            assert (await stream.next())["params"]["uri"] == "note://hosted/here"


async def test_a_task_is_followed_to_its_end(clients: list[Client], bare_fabric: Running) -> None:
    agent, go = Agent("worker"), asyncio.Event()

    @agent.tool(task=Policy(mcp="optional"))
    async def job() -> str:  # pyright: ignore[reportUnusedFunction]
        await go.wait()
        return "done"

    async with serving(bare_fabric.nats_url, agent):
        await knows(clients[0], "worker_job")
        started = await clients[0].result(
            "tools/call", {"name": "worker_job", "arguments": {}, "_meta": meta(**{CAPABILITIES_KEY: TASKS})}
        )
        wanted = {"taskIds": [started["taskId"], "worker.unknown", "x"]}
        async with listening(clients[1], wanted) as stream:
            go.set()
            while (told := await stream.next())["params"]["status"] != "completed":
                assert told["params"]["status"] == "working"
    assert (told["method"], told["params"]["taskId"]) == ("notifications/tasks", started["taskId"])
    assert told["params"]["result"]["structuredContent"] == {"result": "done"}
    assert told["params"]["_meta"] == {SUBSCRIPTION: 1}


async def test_a_gateway_that_is_told_to_stop_ends_its_streams_in_order(
    clients: list[Client], three: list[Replica]
) -> None:
    async with listening(clients[0], {"toolsListChanged": True}, number="mine") as stream:
        assert await asyncio.to_thread(three[0].stop) == 0
        try:
            (answer,) = await stream.rest()
        finally:
            three[0].start()
            until_ready([three[0]])
    assert (answer["id"], answer["result"]["resultType"]) == ("mine", "complete")
    assert answer["result"]["_meta"][SUBSCRIPTION] == "mine"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"notifications": []},
        {"notifications": {"toolsListChanged": 1}},
        {"notifications": {"resourceSubscriptions": "x"}},
        {"notifications": {"resourceSubscriptions": [1]}},
        {"notifications": {"resourceSubscriptions": ["x"] * 1001}},
        {"notifications": {"taskIds": ["x"] * 101}},
    ],
    ids=lambda params: str(params)[:60],
)
async def test_a_wish_that_is_none_is_refused(clients: list[Client], params: Json) -> None:
    refusal(await clients[0].ask(METHOD, params), 400, -32602, number=1)


async def test_who_takes_no_streams_cannot_listen(clients: list[Client]) -> None:
    wanted = {"notifications": {"toolsListChanged": True}}
    refusal(await clients[0].ask(METHOD, wanted, accept="application/json"), 406, -32600, number=1)
