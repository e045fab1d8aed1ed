"""The registry as an agent, on a bus within this process and a real Redis: what it takes, asks and tells.

Proves: CM-1, CM-2
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from support.waiting import Ear, eventually

from fabric.registry.service import AgentEntry, Catalogue, build
from fabric_sdk import Agent, Fabric, FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from registry.conftest import until
from registry.servers import Server, running, valkey

SOON = 3.0
"""Seconds in which whatever is new has to be seen; a heartbeat takes longer."""


@pytest.fixture
async def bus() -> AsyncGenerator[MemoryTransport]:
    bus = MemoryTransport()
    yield bus
    await bus.close()


@asynccontextmanager
async def serving(bus: MemoryTransport, agent: Agent) -> AsyncGenerator[Worker]:
    worker = Worker(bus, agent)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.drain(0.5)


@pytest.fixture
async def registry(bus: MemoryTransport, redis_server: Server) -> AsyncGenerator[Worker]:
    """A registry on an empty Redis."""
    with redis_server.client() as client:
        client.flushall()
    async with serving(bus, build(redis_server.url)) as registry:
        yield registry


class Asker:
    """Asks the registries on a bus."""

    def __init__(self, fabric: Fabric) -> None:
        self._registry = fabric.agent("registry")

    async def catalogue(self) -> Catalogue:
        return Catalogue.model_validate(await self._registry.call("catalogue", timeout=15))

    async def agents(self) -> dict[str, list[str]]:
        """The instances of each agent but the registry's own."""
        return {
            entry.name: sorted(beat.instance for beat in entry.instances)
            for entry in (await self.catalogue()).agents
            if entry.name != "registry"
        }

    async def entry(self, agent: str) -> AgentEntry:
        """What the catalogue has on one agent."""
        (found,) = [entry for entry in (await self.catalogue()).agents if entry.name == agent]
        return found

    async def tools(self, agent: str, digest: str = "") -> list[str]:
        """The names of an agent's tools, from its description."""
        asked = {"agent": agent, "digest": digest}
        described = Description.model_validate(await self._registry.call("description", asked, timeout=15))
        assert described.name == agent
        return [tool["name"] for tool in described.tools]

    async def see(self, **wanted: list[str]) -> None:
        """Wait until the catalogue shows exactly these agents with these instances."""
        await until(self.agents, lambda agents: agents == {name: sorted(each) for name, each in wanted.items()})


@pytest.fixture
async def ask(bus: MemoryTransport, registry: Worker) -> AsyncGenerator[Asker]:
    async with Fabric.over(bus) as fabric:
        yield Asker(fabric)


def offering(name: str, *tools: str) -> Agent:
    """An agent with these tools."""
    agent = Agent(name)
    for tool in tools:

        async def work() -> None:
            """Do nothing."""

        agent.tool(name=tool)(work)
    return agent


def beat(agent: str = "ghost", instance: str = "g1", **more: Any) -> dict[str, Any]:
    return {
        "agent": agent,
        "instance": instance,
        "version": "1",
        "digest": f"of-{agent}",
        "host": "h",
        "pid": 1,
        "started": 1.0,
        "capacity": 1,
        **more,
    }


async def send(bus: MemoryTransport, body: Body, subject: str = "fab.beat.ghost.g1") -> None:
    await bus.publish(Message(subject, body))


async def test_an_agent_is_there_with_its_offer_and_gone_when_it_says_so(bus: MemoryTransport, ask: Asker) -> None:
    changed = Ear()
    await bus.subscribe(subjects.CATALOGUE_CHANGED, changed)
    agent = offering("a", "x", "y")
    async with serving(bus, agent) as first, serving(bus, agent) as second:
        await ask.see(a=[first.instance, second.instance])
        await changed.wait()
        assert await ask.tools("a") == ["x", "y"]
        entry = await ask.entry("a")
        assert entry.digest == first.description.digest
        assert {beat.state for beat in entry.instances} == {"ready"}
    await ask.see(a=[])
    assert await ask.tools("a") == ["x", "y"], "what it offers stays for a while"
    with pytest.raises(FabricError, match="there is no agent 'nobody'"):
        await ask.tools("nobody")


async def test_a_registry_that_begins_late_knows_who_was_there_before(
    bus: MemoryTransport, redis_server: Server
) -> None:
    with redis_server.client() as client:
        client.flushall()
    async with serving(bus, offering("a")) as early, serving(bus, build(redis_server.url)), Fabric.over(bus) as fabric:
        await Asker(fabric).see(a=[early.instance])


NONSENSE = {
    "no-json": Body(encoded=b"\xff{"),
    "nothing": Body(encoded=b""),
    "null": Body(None),
    "list": Body([1, 2]),
    "empty": Body({}),
    "no-agent": Body({**beat(), "agent": None}),
    "name-that-is-none": Body(beat("Not a name!")),
    "name-with-a-wildcard": Body(beat("*")),
    "instance-with-a-dot": Body(beat(instance="g.1")),
    "instance-with-a-wildcard": Body(beat(instance=">")),
    "state-unknown": Body(beat(state="asleep")),
    "started-before-time": Body(beat(started=-1)),
    "started-beyond-time": Body(beat(started=1e300)),
    "started-not-a-number": Body(encoded=b'{"started":"soon"}'),
    "pid-beyond-64-bits": Body(encoded=Body(beat()).encoded().replace(b'"pid":1', b'"pid":99999999999999999999')),
    "served-negative": Body(beat(served=-5)),
    "running-beyond-a-double": Body(beat(running=2**60)),
}


async def test_heartbeats_that_are_malformed_are_ignored(bus: MemoryTransport, ask: Asker) -> None:
    for body in NONSENSE.values():
        await send(bus, body)
    async with serving(bus, offering("a")) as real:
        for body in NONSENSE.values():
            await send(bus, body)
        await until(ask.catalogue, lambda catalogue: catalogue.revision > 0, seconds=SOON)
        assert await ask.agents() == {"a": [real.instance]}


async def test_an_agent_that_beats_and_does_not_answer_holds_up_nobody(bus: MemoryTransport, ask: Asker) -> None:
    for number in range(10):
        await send(bus, Body(beat(f"ghost-{number}", f"g{number}")))
    async with serving(bus, offering("a", "x")) as real:
        everybody = {"a": [real.instance], **{f"ghost-{number}": [f"g{number}"] for number in range(10)}}
        await asyncio.wait_for(ask.see(**everybody), SOON)
        assert await asyncio.wait_for(ask.tools("a"), SOON) == ["x"]


async def test_a_description_that_is_asked_for_is_the_one_that_was_meant(bus: MemoryTransport, ask: Asker) -> None:
    async with serving(bus, offering("a", "x")) as old:
        await ask.see(a=[old.instance])
        async with serving(bus, offering("a", "x", "y")) as new:
            await ask.see(a=[old.instance, new.instance])

            async def offers() -> list[list[str]]:
                return [await ask.tools("a", each.description.digest) for each in (old, new)]

            await until(offers, lambda offered: offered == [["x"], ["x", "y"]])


async def test_any_number_of_registries_share_the_work(bus: MemoryTransport, ask: Asker, redis_server: Server) -> None:
    async with serving(bus, offering("a")) as a:
        await ask.see(a=[a.instance])
        async with serving(bus, build(redis_server.url)), serving(bus, offering("b")) as b:
            await ask.see(a=[a.instance], b=[b.instance])
            for _ in range(10):  # whichever is asked
                assert await ask.agents() == {"a": [a.instance], "b": [b.instance]}
        await ask.see(a=[a.instance], b=[])


async def test_what_redis_loses_comes_back_whole(bus: MemoryTransport, ask: Asker, redis_server: Server) -> None:
    async with serving(bus, offering("a")) as a, serving(bus, offering("b")) as b:
        everybody = {"a": [a.instance], "b": [b.instance]}
        await ask.see(**everybody)
        with redis_server.client() as client:
            client.flushall()
        for _ in range(3):
            assert await ask.agents() == everybody, "at no time is a part taken for the whole"
        await until(ask.catalogue, lambda catalogue: catalogue.revision > 0)
        assert await ask.agents() == everybody


async def test_without_redis_the_bus_is_asked(bus: MemoryTransport) -> None:
    with running(valkey()) as server:
        async with serving(bus, build(server.url)), Fabric.over(bus) as fabric, serving(bus, offering("a")) as a:
            ask = Asker(fabric)
            await ask.see(a=[a.instance])
            server.stop()
            async with serving(bus, offering("b", "x")) as b:
                await ask.see(a=[a.instance], b=[b.instance])
                assert (await ask.catalogue()).revision == 0
                assert await ask.tools("b") == ["x"]
                server.start()
                await until(ask.catalogue, lambda catalogue: catalogue.revision > 0)
                assert await ask.agents() == {"a": [a.instance], "b": [b.instance]}


async def test_from_the_bus_the_newest_instance_speaks_for_the_agent(bus: MemoryTransport) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(bus, build("redis://127.0.0.1:1/0")))
        ask = Asker(await stack.enter_async_context(Fabric.over(bus)))
        for tool in ("x", "y", "z"):
            newest = await stack.enter_async_context(serving(bus, offering("a", tool)))
            assert (await ask.entry("a")).digest == newest.description.digest


async def test_other_micro_services_on_the_bus_are_none_of_its_business(bus: MemoryTransport) -> None:
    def stranger(answer: Any) -> Any:
        def hear(message: Message) -> None:
            answering.append(asyncio.create_task(bus.publish(Message(message.reply, answer))))

        return hear

    answering: list[asyncio.Task[None]] = []
    strange: list[Any] = [
        {},
        {"endpoints": []},
        {"endpoints": [{"data": 5}]},
        {"endpoints": [{"data": {"beat": {}}}]},
        [],
    ]
    for answer in (*map(Body, strange), Body(encoded=b"no json"), Body({"endpoints": [{"data": {"beat": beat("*")}}]})):
        await bus.subscribe(subjects.service("STATS"), stranger(answer))
    async with (
        serving(bus, build("redis://127.0.0.1:1/0")),
        Fabric.over(bus) as fabric,
        serving(bus, offering("a")) as a,
    ):
        assert await Asker(fabric).agents() == {"a": [a.instance]}
    await eventually(lambda: all(task.done() for task in answering))


def test_a_registry_wants_to_know_where_redis_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FABRIC_REDIS_URL", raising=False)
    with pytest.raises(ConfigurationError, match="FABRIC_REDIS_URL"):
        build()
