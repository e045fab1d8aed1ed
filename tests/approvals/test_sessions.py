"""Calls of handshake sessions that a rule puts before a person, by the official client; and what an agent asks then.

Proves: GW-3
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from gateway.client import Json
from mcp import Client as Sdk
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestFormParams, ElicitResult

from approvals.fabric_of_shops import ELICITS, Person, Shops

Answers = Callable[[ElicitRequestFormParams], dict[str, Any] | None]


@asynccontextmanager
async def session(person: Person, answers: Answers | None = None) -> AsyncGenerator[Sdk]:
    """A session of somebody who answers so; without answers, of a client that cannot be asked."""

    async def elicited(context: Any, params: Any) -> ElicitResult:
        content = answers(params) if answers else None
        return ElicitResult(action="decline" if content is None else "accept", content=content)

    async with create_mcp_http_client({"authorization": f"Bearer {person.token}"}) as http:
        transport = streamable_http_client(person.url, http_client=http)
        able = {"elicitation_callback": elicited} if answers else {}
        async with Sdk(transport, mode="legacy", **able) as client:  # pyright: ignore[reportArgumentType]
            yield client


@pytest.fixture
async def clerk(there: Shops) -> Person:
    return await there.person(f"cleo-{uuid4().hex[:6]}", "clerk")


@pytest.fixture
async def manager(there: Shops) -> Person:
    return await there.person(f"max-{uuid4().hex[:6]}", "manager")


async def test_a_session_waits_and_goes_on_once_it_is_granted(there: Shops, clerk: Person, manager: Person) -> None:
    async with session(clerk) as client:
        call = asyncio.create_task(client.call_tool("shop_refund", {"amount": 500}))
        (question,) = await there.waiting()
        await manager.value("approvals_grant", id=question)
        assert (await call).structured_content == {"result": "500 to bob"}


async def test_a_refused_call_of_a_session_is_told_why(there: Shops, clerk: Person, manager: Person) -> None:
    async with session(clerk) as client:
        call = asyncio.create_task(client.call_tool("shop_refund", {"amount": 500}))
        (question,) = await there.waiting()
        await manager.value("approvals_refuse", id=question, reason="not today")
        with pytest.raises(MCPError, match="refused this: not today"):
            await call
    assert there.done == []


@pytest.mark.parametrize(("allow", "done"), [({"allow": True}, 1), ({"allow": False}, 0), (None, 0)], ids=str)
async def test_a_session_is_asked_in_the_call(there: Shops, clerk: Person, allow: Json | None, done: int) -> None:
    asked: list[str] = []

    def answer(params: ElicitRequestFormParams) -> Json | None:
        asked.append(params.message)
        return allow

    async with session(clerk, answer) as client:
        if done:
            result = await client.call_tool("shop_order", {"item": "tea"})
            assert result.structured_content == {"result": "ordered tea"}
        else:
            with pytest.raises(MCPError, match="did not allow"):
                await client.call_tool("shop_order", {"item": "tea"})
    assert len(asked) == 1
    assert len(there.done) == done
    assert await there.waiting(0) == []


async def test_what_an_agent_asks_after_leave_needs_no_second_leave(there: Shops, clerk: Person) -> None:
    def answer(params: ElicitRequestFormParams) -> Json | None:
        return {"allow": True} if "allow" in params.requested_schema["properties"] else {"amount": 7}

    async with session(clerk, answer) as client:
        result = await client.call_tool("shop_chat", {})
        assert result.structured_content == {"result": 7}

    able = clerk.able(ELICITS)
    params: Json = {"name": "shop_chat", "arguments": {}}
    allow = (await able.said("tools/call", params))["result"]
    yes = {"approval": {"action": "accept", "content": {"allow": True}}}
    more = {**params, "requestState": allow["requestState"], "inputResponses": yes}
    amount = (await able.said("tools/call", more))["result"]
    (key,) = amount["inputRequests"]
    said = {key: {"action": "accept", "content": {"amount": 8}}}
    last = {**params, "requestState": amount["requestState"], "inputResponses": said}
    assert (await able.said("tools/call", last))["result"]["structuredContent"] == {"result": 8}
