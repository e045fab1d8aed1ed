"""What clients keep open: it takes nobody's place, is shared out among principals, and ends with the token it came by.

Proves: SE-1, SE-6
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway.client import Client, headers, request
from gateway.handshake import Session
from identity.issuer import AUDIENCE, NAME, claims, elliptic, endpoint
from support.replicas import replicas
from support.running import Running, running_fabric
from support.waiting import eventually, until
from websockets.exceptions import InvalidStatus

from doors.ways import Json, ask, socket_to
from fabric.gateway import kept_open
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.rpc import Refusal
from fabric.identity.identity import ANONYMOUS, OPERATOR
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.errors import Overloaded

MAX_CONCURRENT = 3
MAX_CONNECTIONS = 20
LISTEN = "subscriptions/listen"
ALL: Json = {"notifications": {"toolsListChanged": True}}


@pytest.fixture(scope="module")
def crowded() -> Generator[Running]:
    """A fabric with little room."""
    env = {"FABRIC_MAX_CONCURRENT": str(MAX_CONCURRENT), "FABRIC_MAX_CONNECTIONS": str(MAX_CONNECTIONS)}
    tests = Path(__file__).parents[1]
    with running_fabric(str(tests / "agents" / "hello.py"), str(tests / "gateway" / "jobs.py"), env=env) as running:
        yield running


@pytest.fixture
async def client(crowded: Running) -> AsyncGenerator[Client]:
    async with Client.to(crowded.mcp_url, crowded.token) as client:
        await until(lambda: lists_both(client), bool, what="the agents")
        yield client


async def lists_both(client: Client) -> bool:
    return {"hello_echo", "jobs_add"} <= {tool["name"] for tool in (await client.result("tools/list"))["tools"]}


@asynccontextmanager
async def listening(url: str, token: str | None, params: Json = ALL) -> AsyncGenerator[httpx.Response]:
    """A stream of its own connection."""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
        http.stream(
            "POST", url, content=json.dumps(request(LISTEN, params)), headers=headers(LISTEN, token=token)
        ) as response,
    ):
        yield response


async def made(client: Client, name: str, *roles: str) -> tuple[str, str]:
    """A key's id and token, once it is known."""
    key = (await client.call("access_create_token", name=name, roles=roles))["structuredContent"]

    async def known() -> bool:
        return (await client.ask("tools/list", change={"authorization": f"Bearer {key['token']}"})).status_code == 200

    await until(known, bool, what="the word of a new key")
    return key["id"], key["token"]


async def test_who_only_listens_takes_no_place_from_calls(client: Client) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MAX_CONCURRENT + 1):
            response = await stack.enter_async_context(listening(client.url, client.token))
            assert response.status_code == 200
        await client.still_serves()
    await client.still_serves()


async def test_one_principal_has_half_of_what_may_be_kept_open(client: Client) -> None:
    _, token = await made(client, "ann")
    async with AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS // 2):
            response = await stack.enter_async_context(listening(client.url, token))
            assert response.status_code == 200
        async with listening(client.url, token) as refused:
            assert refused.status_code == 429
            assert json.loads(await refused.aread())["error"]["code"] == Overloaded.code
        with pytest.raises(InvalidStatus) as too_many:
            async with socket_to(client.url.removesuffix("/mcp"), token):
                pass
        assert too_many.value.response.status_code == 429
        session = await Session.open(client.http, client.url, token)
        lines = {**session.lines, "accept": "text/event-stream"}
        assert (await client.http.get(client.url, headers=lines)).status_code == 429
        async with listening(client.url, client.token) as another:
            assert another.status_code == 200
        await client.still_serves()


async def test_whatever_is_open_ends_with_its_key(client: Client) -> None:
    key, token = await made(client, "bob")
    session = await Session.open(client.http, client.url, token)
    async with (
        listening(client.url, token) as listener,
        listening(client.url, client.token) as another,
        session.listen(client.url) as own,
        socket_to(client.url.removesuffix("/mcp"), token) as socket,
    ):
        await own.begun()
        await ask(socket, "tools/list")
        lines = another.aiter_lines()
        assert "acknowledged" in [line async for line in _first(lines, 2)][-1]
        await client.call("access_revoke_token", id=key)
        async with asyncio.timeout(10):
            assert '"resultType":"complete"' in (await listener.aread()).decode()
            assert await own.rest() == []
            await socket.wait_closed()
        assert socket.close_code == 1008
    assert (await client.ask(LISTEN, ALL, change={"authorization": f"Bearer {token}"})).status_code == 401


async def test_whatever_is_open_ends_with_the_issuers_key_that_signed_its_token(tmp_path: Path) -> None:
    """It was open until the token's own end, which whoever has stolen a key writes as he likes."""
    stolen, new = elliptic("stolen"), elliptic("new")
    patient = tmp_path / "limits.yaml"  # who tries a key until it is known is not locked out
    patient.write_text("limits: []\n")
    with endpoint(stolen) as issuer:
        env = {"FABRIC_JWT_ISSUER": NAME, "FABRIC_JWT_AUDIENCE": AUDIENCE, "FABRIC_JWT_JWKS_URL": issuer.url}
        with running_fabric(env={**env, "FABRIC_LIMITS": str(patient)}) as fabric:
            token, kept = stolen.sign(claims()).decode(), new.sign(claims()).decode()
            async with (
                Client.to(fabric.mcp_url, kept) as client,
                listening(fabric.mcp_url, token) as listener,
                listening(fabric.mcp_url, fabric.token) as another,
                socket_to(fabric.mcp_url.removesuffix("/mcp"), token) as socket,
            ):
                lines = another.aiter_lines()
                assert "acknowledged" in [line async for line in _first(lines, 2)][-1]
                assert listener.status_code == 200
                await ask(socket, "tools/list")
                issuer.publish(new)

                async def rotated() -> bool:
                    return (await client.ask("tools/list")).status_code == 200

                await until(rotated, bool, seconds=30, what="the new key")
                async with asyncio.timeout(10):
                    assert '"resultType":"complete"' in (await listener.aread()).decode()
                    await socket.wait_closed()
                assert socket.close_code == 1008
                async with listening(fabric.mcp_url, token) as refused:
                    assert refused.status_code == 401
                assert not another.is_closed


async def test_who_watches_tasks_takes_no_place_and_has_its_share_until_its_key_ends(client: Client) -> None:
    """For as long as a task waits: with so many of them, nobody else was served."""
    key, token = await made(client, "eve", "admin")
    lines = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=client.url.removesuffix("/mcp"), trust_env=False, timeout=20) as http,
        AsyncExitStack() as stack,
    ):
        started = await http.post("/api/tasks/jobs_add?delay=600", json={"a": 1, "b": 2}, headers=lines)
        task = started.headers["location"]
        watching = [
            await stack.enter_async_context(http.stream("GET", task, headers=lines))
            for _ in range(MAX_CONNECTIONS // 2)
        ]
        assert [response.status_code for response in watching] == [200] * len(watching)
        await client.still_serves()
        assert (await http.get(task, headers=lines)).status_code == 429
        await client.call("access_revoke_token", id=key)
        async with asyncio.timeout(10):
            for response in watching:
                assert '"status":"working"' in (await response.aread()).decode()


async def test_who_watches_a_task_keeps_no_gateway_from_ending(crowded: Running, client: Client) -> None:
    """It waited for half a minute for each, and told of a mistake then."""
    lines = {"authorization": f"Bearer {crowded.token}", "accept": "text/event-stream"}
    with replicas(crowded, 1) as (gateway,):
        async with httpx.AsyncClient(
            base_url=gateway.url.removesuffix("/mcp"), headers=lines, trust_env=False, timeout=20
        ) as http:
            started = await http.post("/api/tasks/jobs_add?delay=600", json={"a": 1, "b": 2})
            async with http.stream("GET", started.headers["location"]) as watching:
                stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
                async with asyncio.timeout(15):
                    assert '"status":"working"' in (await watching.aread()).decode()
            assert await stopping == 0


async def _first(lines: Any, count: int) -> AsyncGenerator[str]:
    for _ in range(count):
        yield await anext(lines)


def opened(kept: KeptOpen, identity: Any, names: list[str]) -> None:
    with kept.one(identity, lambda: None, names):
        pass


async def test_what_one_stream_names_is_bounded(client: Client) -> None:
    refused = await client.ask(LISTEN, {"notifications": {"resourceSubscriptions": ["x" * 1000] * 263}})
    assert refused.json()["error"]["code"] == -32602
    assert "262144 characters" in refused.json()["error"]["message"]


def test_what_all_streams_name_is_bounded() -> None:
    kept = KeptOpen(1000)
    large = ["x" * 1024 * 1024] * 31
    with kept.one(OPERATOR, lambda: None, large):
        with pytest.raises(Refusal, match="your streams name") as full:
            opened(kept, OPERATOR, large)
        assert full.value.status == 429
        with kept.one(ANONYMOUS, lambda: None, large), pytest.raises(Refusal, match="this gateway keeps") as all_full:
            opened(kept, replace(OPERATOR, principal="ann"), large)
        assert all_full.value.status == 503
    opened(kept, OPERATOR, large)
    assert len(kept) == 0


def test_who_was_revoked_on_the_way_opens_nothing() -> None:
    kept = KeptOpen(10)
    kept.revoked(OPERATOR)
    with pytest.raises(Refusal, match="revoked") as refused:
        opened(kept, OPERATOR, [])
    assert refused.value.status == 401


def test_whose_issuers_key_was_withdrawn_on_the_way_opens_nothing() -> None:
    kept, ann = KeptOpen(10), replace(OPERATOR, signed_by="one")
    kept.signing_keys(frozenset({"one"}))
    opened(kept, ann, [])
    ended: list[str] = []
    with kept.one(ann, lambda: ended.append("ann")), kept.one(OPERATOR, lambda: ended.append("operator")):
        kept.signing_keys(frozenset({"one", "two"}))
        assert ended == []
        kept.signing_keys(frozenset({"two"}))
        assert ended == ["ann"]
    with pytest.raises(Refusal, match="withdrawn") as refused:
        opened(kept, ann, [])
    assert refused.value.status == 401
    kept.signing_keys(frozenset({"one", "two"}))
    opened(kept, ann, [])


async def test_who_was_revoked_long_ago_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_open, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(kept_open, "_REMEMBERED_SECONDS", 0.03)
    kept = KeptOpen(10)
    kept.revoked(OPERATOR)
    running = asyncio.create_task(kept.run())

    def opens() -> bool:
        try:
            opened(kept, OPERATOR, [])
        except Refusal:
            return False
        return True

    assert not opens()
    await eventually(opens, what="a key that was brought back")
    await end([running])


async def test_what_was_opened_by_a_token_ends_when_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_open, "_LOOK_SECONDS", 0.01)
    kept, ended, never = KeptOpen(10), asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(kept.run())
    with kept.one(replace(OPERATOR, expires=time.time() + 0.05), ended.set), kept.one(OPERATOR, never.set):
        async with asyncio.timeout(5):
            await ended.wait()
        assert not never.is_set()
    running.cancel()
