"""What is noted of requests at every door: who, what, by which rule, what came of it, and never what they hold.

Proves: SE-5, SE-7
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cli.command import fabric as command
from gateway.handshake import Session
from support.running import Running
from support.waiting import until

from doors.ways import DOORS, Json, Way
from fabric.audit.reading import Noted, Wanted, found, verified
from fabric_sdk import Fabric
from fabric_sdk.contracts.streams import AUDIT
from fabric_sdk.jetstream import Refused

Key = Callable[..., str]
CANARY = "canary-7f3a9c"
"""In arguments, results, wrong tokens and queries: it must be nowhere."""


@pytest.fixture
async def fabric(doors_fabric: Running) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(doors_fabric.nats_url) as fabric:
        yield fabric


async def noted(fabric: Fabric, principal: str, count: int = 1, **more: Any) -> list[Json]:
    """What was noted of somebody, once it is so much."""

    async def there() -> list[Json]:
        entries = found(fabric.jetstream, Wanted(principal=principal, **more))
        return [each.shown() async for each in entries]

    return await until(there, lambda entries: len(entries) >= count, what=f"{count} entries of {principal}")


async def test_each_call_is_noted_at_each_door(way: Way, fabric: Fabric, key: Key) -> None:
    door = {"RestWay": "rest", "McpWay": "mcp", "SocketWay": "websocket"}[type(way).__name__]
    who = f"ann-{uuid4().hex[:6]}"
    token = key(who, roles=["clerk"])
    await way.ask("tools/call", "hello_echo", {"text": CANARY}, token)
    await way.ask("tools/call", "hello_echo", {"text": "secret"}, token)
    await way.ask("tools/call", "access_create_token", {"name": CANARY}, token)
    await way.ask("prompts/get", "hello_greet", {"name": CANARY}, token)
    await way.ask("resources/read", f"notes://hello/monday?key={CANARY}", {}, token)
    entries = await noted(fabric, who, 5)
    told = [(each["outcome"], each["method"], each.get("agent"), each["tool"], each.get("rule")) for each in entries]
    assert told[:4] == [
        ("done", "tools/call", "hello", "echo", "clerks"),
        ("denied", "tools/call", "hello", "echo", "no-secrets"),
        ("unknown", "tools/call", None, "access_create_token", None),
        ("done", "prompts/get", "hello", "greet", "clerks"),
    ]
    assert told[4][1:4:2] == ("resources/read", told[4][3])
    assert {each["door"] for each in entries} == {door}
    assert {each["token"] for each in entries} == {token.split("_")[1]}  # the part of a key that is no secret
    assert all(each["size"] > 0 for each in entries if each["method"] == "tools/call")
    assert entries[0]["ms"] > 0
    assert entries[1]["code"] == 4030


async def test_sessions_asked_persons_limits_and_failures_are_noted(
    url: str, operator: str, fabric: Fabric, key: Key, rest: httpx.AsyncClient
) -> None:
    who = f"few-{uuid4().hex[:6]}"
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        session = await Session.open(http, f"{url}/mcp", key(who, roles=["clerk"]))
        waits = session.call(f"{url}/mcp", "hello_echo", text="LOUD")
        waiting = asyncio.create_task(waits.__aenter__())
        (asked,) = await noted(fabric, who, outcome="asked")
        assert (asked["door"], asked["rule"], asked["tool"]) == ("session", "shouting-is-approved", "echo")
        told = await rest.post("/api/tools/approvals_refuse", json={"id": asked["about"], "reason": CANARY})
        assert told.status_code == 200
        await (await waiting).rest()
        await waits.__aexit__(None, None, None)
        params = {"name": "hello_echo", "arguments": {"text": "2"}}
        refused = await session.post(f"{url}/mcp", {"id": 9, "method": "tools/call", "params": params})
        assert refused.status_code == 429
    assert [each["outcome"] for each in await noted(fabric, who, 3)] == ["asked", "refused", "limited"]
    acts = await noted(fabric, "operator", outcome="managed", agent="approvals")
    assert asked["about"] in [each["about"] for each in acts if each["tool"] == "refuse"]


async def test_who_does_not_get_in_is_noted(url: str, fabric: Fabric) -> None:
    for door in DOORS.values():
        async with door(url) as way:
            await way.ask("tools/call", "hello_echo", {}, f"wrong-{CANARY}")

    async def doors() -> set[str]:
        entries = found(fabric.jetstream, Wanted(outcome="unauthenticated"))
        return {each.entry.door async for each in entries if each.entry.address == "127.0.0.1"}

    await until(doors, lambda found: found == {"mcp", "rest", "websocket"}, what="the doors that were tried")


async def test_administrative_acts_are_noted_whoever_does_them(
    rest: httpx.AsyncClient, fabric: Fabric, doors_fabric: Running
) -> None:
    name = f"new-{uuid4().hex[:6]}"
    made = (await rest.post("/api/tools/access_create_token", json={"name": name})).json()["structuredContent"]
    typed = ("token", "revoke", made["id"])
    await asyncio.to_thread(command, *typed, env={"FABRIC_NATS_URL": doors_fabric.nats_url})
    with pytest.raises(Exception, match="no key"):
        await fabric.agent("access").call("revoke_token", {"id": made["id"]})

    async def acts() -> list[tuple[Any, ...]]:
        entries = found(fabric.jetstream, Wanted(agent="access"))
        noted = [each.shown() async for each in entries]
        return [
            (each["outcome"], each.get("principal"), each.get("door"), each.get("address"), each["tool"])
            for each in noted
            if each.get("about") in (name, made["id"])
        ]

    assert await until(acts, lambda acts: len(acts) == 3) == [
        ("managed", "operator", None, None, "create_token"),
        ("managed", None, "bus", f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}", "revoke_token"),
        ("failed", None, "bus", None, "revoke_token"),
    ]
    assert made["token"] not in str([each async for each in found(fabric.jetstream)])


async def test_nothing_that_was_said_is_in_the_log_and_nobody_can_remove_any(
    way: Way, fabric: Fabric, key: Key
) -> None:
    token = key(f"eve-{uuid4().hex[:6]}", roles=["clerk"])
    await way.ask("tools/call", "hello_echo", {"text": CANARY}, token)
    everything: list[Noted] = []

    async def read() -> list[Noted]:
        everything[:] = [each async for each in found(fabric.jetstream)]
        return everything

    await until(read, lambda entries: any(each.entry.principal.startswith("eve-") for each in entries))
    said = str([each.shown() for each in everything])
    assert CANARY not in said
    assert token not in said
    for verb, asked in (("MSG.DELETE", {"seq": 1}), ("PURGE", {})):
        with pytest.raises(Refused):
            await fabric.jetstream.request(f"STREAM.{verb}.{AUDIT.name}", asked)
    verdict = await verified(fabric.jetstream)
    assert verdict.whole, verdict.findings
    assert {head.writer.partition("-")[0] for head in verdict.heads} == {"gateway", "platform"}
