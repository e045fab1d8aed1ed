"""A fabric in this process: a real server, a gateway on a real port, a shop where a person has to allow some things.

Only the registry is made up, as it would need a server more and says nothing here that it does not say elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from gateway.client import CAPABILITIES_KEY, Client, Json, meta, request
from gateway.fakes import FakeRegistry
from pydantic import BaseModel
from support.waiting import eventually, until

from fabric.approvals.service import build
from fabric.approvals.store import Approvals
from fabric.gateway.app import Gateway
from fabric.gateway.listen import limited
from fabric.identity.keys import KeyStore, new_key
from fabric.policy import Rule, load
from fabric.settings import load_settings
from fabric_sdk import Agent, Context, Fabric, Policy
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.errors import UnknownTask
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

EXTENSION = "io.modelcontextprotocol/tasks"
T = TypeVar("T")
TASKS: Json = {CAPABILITIES_KEY: {"extensions": {EXTENSION: {}}}}
ELICITS: Json = {CAPABILITIES_KEY: {"elicitation": {}}}

RULES = """
roles: {clerk: [], manager: [], admin: []}
rules:
  - {name: admins, roles: [admin], on: ["*/*"], then: allow}
  - {name: all-shop, principals: ["*"], on: ["shop/*", "approvals/*"], then: allow}
  - {name: large, principals: ["*"], verbs: [call], on: [shop/refund], when: arguments.amount > 100,
     then: ask, approvers: [manager]}
  - {name: own, principals: ["*"], verbs: [call], on: [shop/order, shop/chat, shop/send, shop/note],
     then: ask, approvers: [clerk], self: true}
  - {name: brief, principals: ["*"], verbs: [call], on: [shop/brief], then: ask, approvers: [manager], expires: 1s}
  - {name: vault, principals: ["*"], verbs: [read], on: ["shop/shop://vault"], then: ask, approvers: [manager]}
"""


class Amount(BaseModel):
    amount: int


def shop(done: list[tuple[Any, ...]]) -> Agent:
    """An agent that notes what it did, and for whom."""
    agent = Agent("shop")

    @agent.tool(task=Policy(attempts=1))
    async def refund(ctx: Context, amount: int, to: str = "bob") -> str:
        done.append(("refund", amount, ctx.principal))
        return f"{amount} to {to}"

    @agent.tool
    async def order(ctx: Context, item: str) -> str:
        done.append(("order", item, ctx.principal))
        return f"ordered {item}"

    @agent.tool
    async def chat(ctx: Context) -> int:
        said = await ctx.elicit("How much?", Amount)
        return said.content.amount if said.content else 0

    @agent.tool
    async def send(to: str) -> str:
        done.append(("send", to))
        raise RuntimeError("the line is dead")

    @agent.tool(task=Policy(attempts=2, first_wait=0.01))
    async def note(to: str) -> str:
        done.append(("note", to))
        raise RuntimeError("the line is dead")

    @agent.tool
    async def brief(ctx: Context) -> str:
        done.append(("brief",))
        return "done"

    @agent.tool
    async def roles(ctx: Context) -> list[str]:
        return sorted(ctx.scope.roles)

    @agent.resource("shop://vault")
    async def vault() -> str:
        done.append(("vault",))
        return "gold"

    return agent


class Person(Client):
    """One client with its own token and capabilities."""

    def __init__(self, url: str, token: str, http: httpx.AsyncClient, declares: Json | None = None) -> None:
        super().__init__(url, token, http)
        self.declares = declares or {CAPABILITIES_KEY: {}}

    def able(self, declares: Json) -> Person:
        """The same person with a client that knows more."""
        return Person(self.url, str(self.token), self.http, declares)

    async def said(self, method: str, params: Json) -> Json:
        """The JSON-RPC answer."""
        named = params.get("taskId", params.get("name", params.get("uri")))
        lines = self.headers(method, named, accept="application/json")
        body = json.dumps(request(method, {"_meta": meta(**self.declares), **params}))
        answer: Json = (await self.post(body, lines)).json()
        return answer

    async def does(self, tool: str, **arguments: Any) -> Json:
        """The JSON-RPC answer to a call."""
        return await self.said("tools/call", {"name": tool, "arguments": arguments})

    async def value(self, tool: str, **arguments: Any) -> Any:
        """What a tool returned."""
        said = await self.does(tool, **arguments)
        structured = said["result"]["structuredContent"]
        return structured["result"] if structured.keys() == {"result"} else structured

    async def until(self, task_id: str, *states: str) -> Json:
        """A task in one of these states."""
        said = await until(
            lambda: self.said("tasks/get", {"taskId": task_id}), lambda said: said["result"]["status"] in states
        )
        return said["result"]


class Shops:
    """The fabric, and who is there."""

    def __init__(self, gateway: Gateway, fabric: Fabric, url: str, http: httpx.AsyncClient, rules: Path) -> None:
        self.fabric = fabric
        self.url = url
        self.done: list[tuple[Any, ...]] = []
        self.approvals = Approvals(fabric)
        self._gateway = gateway
        self._http = http
        self.policy = rules
        self._rules = load(rules).rules

    async def person(self, name: str, *roles: str) -> Person:
        """Somebody with a key of their own."""
        key, token = new_key(name, roles=roles)
        await KeyStore(self.fabric.jetstream).add(key)
        person = Person(self.url, token, self._http)
        await until(lambda: person.said("server/discover", {}), lambda said: "result" in said)  # it hears of the key
        return person

    @property
    def serving(self) -> int:
        """Requests that the gateway has in hand."""
        return self._gateway._serving  # pyright: ignore[reportPrivateUsage]

    def rule(self, name: str) -> Rule:
        """One of the policy's."""
        return next(each for each in self._rules if each.name == name)

    @asynccontextmanager
    async def other_policy(self, change: Callable[[str], str]) -> AsyncGenerator[None]:
        """Held while the gateway goes by what `change` makes of its policy."""
        before = self.policy.read_text()
        for text in (change(before), before):
            fresh = self.policy.with_suffix(".new")
            fresh.write_text(text)
            names = {rule.name for rule in load(fresh).rules}
            fresh.replace(self.policy)
            keeper = self._gateway._gate.policy  # pyright: ignore[reportPrivateUsage]
            await eventually(lambda: {rule.name for rule in keeper.value.rules} == names, what="the policy")  # noqa: B023
            if text is not before:
                yield

    async def waiting(self, count: int = 1, *, of: str = "") -> list[str]:
        """The ids of what waits, of one principal or all, once it is so many."""

        async def found() -> list[str]:
            there = await self.approvals.all()
            waiting = [each for each in there if each.state == "waiting" and of in ("", each.principal)]
            return [each.id for each in waiting if not each.task or await self._is_on_record(each.agent, each.task)]

        return await until(found, lambda ids: len(ids) == count)

    async def _is_on_record(self, agent: str, task: str) -> bool:
        """A question is put before its task is held, and may be answered in between."""
        try:
            await self.fabric.tasks.read(agent, task)
        except UnknownTask:
            return False
        return True


@asynccontextmanager
async def shops(nats_url: str, folder: Path, *, call_timeout: float = 20.0) -> AsyncGenerator[Shops]:
    """All of it, on the server at `nats_url`."""
    rules = folder / "policy.yaml"
    rules.write_text(RULES)
    async with AsyncExitStack() as stack:
        fabric = await stack.enter_async_context(Fabric.connect(nats_url))
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            settings = load_settings(token="operators", policy=rules, call_timeout=call_timeout)
            gateway = Gateway(fabric, settings)
            found = Shops(gateway, fabric, f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", http, rules)
            registry = FakeRegistry()
            agents = [registry.agent(), shop(found.done), build(rules)]
            registry.agents = {each.name: await each.describe() for each in agents[1:]}
            for each in agents:
                transport = await NatsTransport.connect(nats_url)
                stack.push_async_callback(transport.close)
                worker = Worker(transport, each)
                await worker.start()
                stack.push_async_callback(worker.drain, 0.0)
            async with gateway.run():
                server = uvicorn.Server(
                    uvicorn.Config(gateway, lifespan="off", log_config=None, ws="none", http=limited(16_384, 30.0, 100))
                )
                serving = asyncio.create_task(server.serve([listener]))
                try:
                    yield found
                finally:
                    gateway.close()
                    server.should_exit = True
                    await asyncio.wait([serving], timeout=5)
                    await end([serving])
