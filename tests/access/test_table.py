"""The table of who may see and call what: a person, two agents, a revoked key, no token, in both eras.

Proves: GW-1, GW-2
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from gateway.client import Client, Json
from gateway.conftest import knows
from gateway.handshake import Session
from gateway.probe import serving
from gateway.test_listening import listening
from support.running import Running, running_fabric

from fabric_sdk import Agent, Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message

ERAS = ("2026-07-28", "2025-11-25")
ADMIN, NOBODY, SHOP, PAY, REVOKED, NONE = "admin", "person without a role", "agent shop", "agent pay", "revoked", "none"

TOOLS: dict[str, set[str]] = {
    "shop_buy": {ADMIN},
    "pay_charge": {ADMIN},
    "pay_refund": {ADMIN},
    "access_list_tokens": {ADMIN},
    "durable_list_dead": {ADMIN},
    "registry_catalogue": {ADMIN},
    "buy": {SHOP},
    "charge": {PAY},
    "refund": {PAY},
    "till_charge": {SHOP},  # the mount shows this one,
    "till_refund": set(),  # and not this
    "nothing": set(),
}
"""Who sees, and may call, each name."""
URIS: dict[str, set[str]] = {
    "note://shop/here": {ADMIN},
    "note://pay/here": {ADMIN},
    "note://here": {SHOP, PAY},
    "note://till/here": {SHOP},
}
PROMPTS: dict[str, set[str]] = {"shop_ask": {ADMIN}, "pay_ask": {ADMIN}, "ask": {SHOP, PAY}, "till_ask": {SHOP}}
KNOWN = (ADMIN, NOBODY, SHOP, PAY)


def agent(name: str, *tools: str) -> Agent:
    agent = Agent(name)

    async def work() -> str:
        return name

    def note() -> str:
        return name

    for tool in tools:
        agent.tool(name=tool)(work)
    agent.resource("note://here")(note)
    agent.prompt(name="ask")(note)
    return agent


@pytest.fixture(scope="module")
def fabric() -> Generator[Running]:
    with running_fabric() as running:
        yield running


@pytest.fixture(scope="module")
async def bus(fabric: Running) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(fabric.nats_url) as bus:
        yield bus


@pytest.fixture(scope="module")
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture(scope="module")
async def tokens(fabric: Running, bus: Fabric, http: httpx.AsyncClient) -> AsyncGenerator[dict[str, str | None]]:
    """A token for each column; the agents serve, and one has mounted a tool of the other."""
    access = bus.agent("access")

    async def made(name: str, **about: Any) -> Json:
        return await access.call("create_token", {"name": name, **about})

    async with AsyncExitStack() as pools:
        for each in (agent("shop", "buy"), agent("pay", "charge", "refund")):
            await pools.enter_async_context(serving(fabric.nats_url, each))
        await access.call("mount", {"agent": "shop", "prefix": "till", "target": "pay", "tools": ["charge"]})
        gone = await made("gone", roles=["admin"])
        tokens: dict[str, str | None] = {
            ADMIN: (await made("ann", roles=["admin"]))["token"],
            NOBODY: (await made("bob"))["token"],
            SHOP: (await made("s", agent="shop"))["token"],
            PAY: (await made("p", agent="pay"))["token"],
            REVOKED: gone["token"],
            NONE: None,
        }
        for who, tool in ((ADMIN, "pay_charge"), (ADMIN, "shop_buy"), (SHOP, "till_charge"), (REVOKED, "buy")):
            client = Client(fabric.mcp_url, tokens[who], http)
            while (await client.ask("tools/list")).status_code == 401:
                pass  # until the gateway knows the key
            await knows(client, tool, there=who != REVOKED)
        await access.call("revoke_token", {"id": gone["id"]})
        while (await Client(fabric.mcp_url, gone["token"], http).ask("tools/list")).status_code != 401:
            pass
        yield tokens


class Door:
    """The gateway in one era, for one sender."""

    def __init__(self, client: Client, session: Session | None) -> None:
        self._client = client
        self._session = session

    @staticmethod
    async def of(era: str, url: str, token: str | None, http: httpx.AsyncClient) -> Door:
        session = None if era == ERAS[0] else await Session.open(http, url, token, revision=era)
        return Door(Client(url, token, http), session)

    async def ask(self, method: str, params: Json | None = None) -> Json:
        """The JSON-RPC response."""
        if self._session is not None:
            return await self._session.ask(self._client.url, method, params)
        return (await self._client.ask(method, params)).json()

    async def names(self, method: str, member: str, key: str) -> set[str]:
        return {each[key] for each in (await self.ask(method))["result"][member]}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("who", KNOWN)
async def test_each_sees_its_own_and_nothing_else(
    fabric: Running, tokens: dict[str, str | None], http: httpx.AsyncClient, era: str, who: str
) -> None:
    door = await Door.of(era, fabric.mcp_url, tokens[who], http)
    for table, method, member, key in (
        (TOOLS, "tools/list", "tools", "name"),
        (URIS, "resources/list", "resources", "uri"),
        (PROMPTS, "prompts/list", "prompts", "name"),
    ):
        listed = await door.names(method, member, key)
        assert {name: name in listed for name in table} == {name: who in those for name, those in table.items()}
        if who != ADMIN:  # who also sees all that the platform itself has
            assert listed == {name for name, those in table.items() if who in those}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("who", KNOWN)
async def test_each_may_use_what_it_sees_and_nothing_else(
    fabric: Running, tokens: dict[str, str | None], http: httpx.AsyncClient, era: str, who: str
) -> None:
    door = await Door.of(era, fabric.mcp_url, tokens[who], http)
    for table, method, key in (
        (TOOLS, "tools/call", "name"),
        (URIS, "resources/read", "uri"),
        (PROMPTS, "prompts/get", "name"),
    ):
        for name, those in table.items():
            answer = await door.ask(method, {key: name})
            assert ("result" in answer) is (who in those), (name, answer)
            if who not in those:  # as if there were no such thing: nobody learns what others have
                unknown = await door.ask(method, {key: "note://x/y" if key == "uri" else "unknown"})
                assert answer["error"]["code"] == unknown["error"]["code"], name


@pytest.mark.parametrize("who", [REVOKED, NONE])
async def test_who_is_not_known_sees_nothing_in_any_era(
    fabric: Running, tokens: dict[str, str | None], http: httpx.AsyncClient, who: str
) -> None:
    client = Client(fabric.mcp_url, tokens[who], http)
    owner = await Session.open(http, fabric.mcp_url, tokens[ADMIN])
    lines = {name: value for name, value in owner.lines.items() if name != "authorization"}
    token = tokens[who]
    lines |= {} if token is None else {"authorization": f"Bearer {token}"}
    hello: Json = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": ERAS[1]}}
    ping: Json = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for response in (
        *[await client.ask(method) for method in ("tools/list", "resources/list", "prompts/list", "server/discover")],
        *[await client.ask("tools/call", {"name": name}) for name in TOOLS],
        *[await http.post(fabric.mcp_url, json=body, headers=lines) for body in (hello, ping)],
        await http.get(fabric.mcp_url, headers=lines),
        await http.delete(fabric.mcp_url, headers=lines),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert (await owner.ask(fabric.mcp_url, "ping"))["result"] == {}


async def test_mounts_come_and_go_while_clients_listen(
    fabric: Running, tokens: dict[str, str | None], http: httpx.AsyncClient, bus: Fabric
) -> None:
    shop, pay = (Client(fabric.mcp_url, tokens[who], http) for who in (SHOP, PAY))
    session = await Session.open(http, fabric.mcp_url, tokens[SHOP])
    everything: Json = {"promptsListChanged": True, "resourcesListChanged": True, "toolsListChanged": True}
    changed = {f"notifications/{kind}/list_changed" for kind in ("prompts", "resources", "tools")}
    access, mount = bus.agent("access"), {"agent": "shop", "prefix": "more"}
    async with (
        listening(shop, everything) as new,
        session.listen(fabric.mcp_url) as old,
        listening(pay, {"toolsListChanged": True, "resourceSubscriptions": ["note://here"]}) as other,
    ):
        await old.begun()
        for act, there in (("mount", True), ("unmount", False)):
            await access.call(act, {**mount, "target": "pay"} if there else mount)
            for stream in (new, old):
                assert {(await stream.next())["method"] for _ in changed} == changed
            for era in ERAS:
                door = await Door.of(era, fabric.mcp_url, tokens[SHOP], http)
                listed = await door.names("tools/list", "tools", "name")
                assert {name for name in listed if name.startswith("more_")} == (
                    {"more_charge", "more_refund"} if there else set()
                )
                assert ("result" in await door.ask("tools/call", {"name": "more_charge"})) is there
                assert ("result" in await door.ask("resources/read", {"uri": "note://more/here"})) is there
        await bus.transport.publish(Message(subjects.changed("pay"), Body({"resource": "note://here"})))
        # What others had mounted was none of its business: this is the first that it hears of.
        assert (await other.next())["method"] == "notifications/resources/updated"
