"""The registry as an agent, on a bus within this process and a real Redis: what it takes, asks and tells.

Proves: CM-1, CM-2
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.waiting import Ear, eventually

from fabric.registry import service, store
from fabric.registry.service import AgentEntry, Catalogue, build
from fabric_sdk import Agent, Fabric, FabricError
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.patterns.gather import gather
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

    async def only(self, capability: str | None, labels: dict[str, str] | None) -> list[str]:
        """The names of those with a capability and labels."""
        found = await self._registry.call("catalogue", {"capability": capability, "labels": labels}, timeout=15)
        return [entry.name for entry in Catalogue.model_validate(found).agents]

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


async def say(bus: MemoryTransport, said: dict[str, Any]) -> None:
    """A heartbeat, on the subject where it belongs."""
    await send(bus, Body(said), subjects.beat(said["agent"], said["instance"]))


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


async def test_agents_are_found_by_what_they_can_and_by_labels(bus: MemoryTransport, ask: Asker) -> None:
    north, south = {"region": "north", "team": "a"}, {"region": "south", "team": "a"}
    agents = [
        Agent("one", capabilities={"draw", "write"}, labels=north),
        Agent("two", capabilities={"draw"}, labels=south),
        Agent("three"),
    ]
    async with AsyncExitStack() as workers:
        serving_all = [await workers.enter_async_context(serving(bus, agent)) for agent in agents]
        await ask.see(**{each.description.name: [each.instance] for each in serving_all})
        for capability, labels, found in (
            ("draw", None, ["one", "two"]),
            ("write", None, ["one"]),
            ("draw", {"region": "south"}, ["two"]),
            (None, {"team": "a"}, ["one", "two"]),
            (None, {"team": "a", "region": "north"}, ["one"]),
            ("write", south, []),
            ("fly", None, []),
        ):
            assert await ask.only(capability, labels) == found


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
    "digest-with-a-dot": Body(beat(digest="d.1")),
    "digest-without-end": Body(beat(digest="d" * 129)),
    "of-another-agent": Body(beat("a")),
    "of-another-instance": Body(beat(instance="g2")),
}


async def test_heartbeats_that_are_malformed_are_ignored(
    bus: MemoryTransport, ask: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    for body in NONSENSE.values():
        await send(bus, body)
    async with serving(bus, offering("a")) as real:
        for body in NONSENSE.values():
            await send(bus, body)
        await until(ask.catalogue, lambda catalogue: catalogue.revision > 0, seconds=SOON)
        assert await ask.agents() == {"a": [real.instance]}
    told = [message for message in caplog.messages if message.startswith("heartbeats")]
    assert len(told) == 1, "each subject is told of once"
    assert "'fab.beat.ghost.g1'" in caplog.text


async def test_what_a_heartbeat_says_for_people_to_read_is_cut(bus: MemoryTransport, ask: Asker) -> None:
    await say(bus, beat(version="9" * 10_000, host="h" * 10_000))
    await ask.see(ghost=["g1"])
    (found,) = (await ask.entry("ghost")).instances
    assert (len(found.version), len(found.host)) == (64, 64)


async def test_newcomers_to_a_full_catalogue_are_refused_with_one_warning(
    bus: MemoryTransport, ask: Asker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "MOST_OF_ONE", 2)
    for _ in range(3):
        for number in range(5):
            await say(bus, beat(instance=f"g{number}"))
        await ask.see(ghost=["g0", "g1"])
    assert [said for said in caplog.messages if "has 2 instances" in said] == [
        "ghost has 2 instances: no more are taken until some go"
    ]


async def test_more_instances_than_there_may_be_are_not_even_held(
    bus: MemoryTransport, ask: Asker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await ask.see()
    monkeypatch.setattr(service, "MOST_OF_ALL", 3)
    for number in range(100):
        await say(bus, beat(instance=f"g{number}"))
    await until(ask.agents, lambda agents: agents.get("ghost"))
    assert len((await ask.agents())["ghost"]) <= 3
    assert caplog.text.count("beat at once") == 1


async def test_an_agent_that_does_not_describe_itself_is_told_of_once_and_asked_ever_more_seldom(
    bus: MemoryTransport, ask: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []

    async def refuse(message: Message) -> None:
        await bus.publish(Message(message.reply, Body({"name": "Not a name"})))

    def hear(message: Message) -> None:
        asked.append(asyncio.get_running_loop().time())
        answering.append(asyncio.create_task(refuse(message)))

    answering: list[asyncio.Task[None]] = []
    await bus.subscribe(subjects.directs("g1"), hear)
    async with asyncio.timeout(10):
        while len(asked) < 3:
            await say(bus, beat())
            await asyncio.sleep(0.05)
    first, second = (later - earlier for earlier, later in pairwise(asked))
    assert second > first + 0.5
    assert first > 0.9
    assert caplog.text.count("g1 of ghost does not describe itself") == 1


@pytest.mark.parametrize("said", [{"name": "b"}, {"name": "ghost", "digest": "another"}], ids=["name", "digest"])
async def test_a_description_of_something_else_is_refused(
    bus: MemoryTransport, ask: Asker, caplog: pytest.LogCaptureFixture, said: dict[str, Any]
) -> None:
    answering: list[asyncio.Task[None]] = []

    def hear(message: Message) -> None:
        answer = Body({"digest": "of-ghost", "tools": [{"name": "evil"}], **said})
        answering.append(asyncio.create_task(bus.publish(Message(message.reply, answer))))

    for subject in (subjects.directs("g1"), subjects.calls("ghost")):
        await bus.subscribe(subject, hear)
    await say(bus, beat())
    await ask.see(ghost=["g1"])
    await eventually(lambda: "does not describe itself: ghost of-ghost was asked for" in caplog.text)
    with pytest.raises(FabricError, match="ghost of-ghost was asked for"):
        await ask.tools("ghost", "of-ghost")


async def test_a_description_of_the_future_keeps_the_name_that_its_sender_gave_it(
    bus: MemoryTransport, ask: Asker
) -> None:
    answering: list[asyncio.Task[None]] = []

    def hear(message: Message) -> None:
        answer = Body({"name": "ghost", "digest": "of-ghost", "holograms": [1], "tools": [{"name": "x"}]})
        answering.append(asyncio.create_task(bus.publish(Message(message.reply, answer))))

    await bus.subscribe(subjects.directs("g1"), hear)
    await say(bus, beat())
    await ask.see(ghost=["g1"])
    entry = await ask.entry("ghost")
    assert entry.digest == "of-ghost"

    async def tools() -> list[str]:
        return await ask.tools("ghost", entry.digest)

    assert await asyncio.wait_for(tools(), SOON) == ["x"]
    assert len(answering) == 1, "asked once, and filed under what was asked for"


async def test_an_agent_that_beats_and_does_not_answer_holds_up_nobody(bus: MemoryTransport, ask: Asker) -> None:
    for number in range(10):
        await say(bus, beat(f"ghost-{number}", f"g{number}"))
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


async def test_an_error_without_end_does_not_keep_an_instance_from_being_found(bus: MemoryTransport) -> None:
    agent = Agent("a")

    @agent.tool
    async def fail() -> None:
        raise errors.HandlerFailed("x" * 10_000_000)

    async with serving(bus, agent), Fabric.over(bus) as fabric:
        with pytest.raises(FabricError):
            await fabric.agent("a").call("fail")
        (answer,) = await gather(bus, subjects.service("STATS", "a"), seconds=0.2)
        assert len(answer["endpoints"][0]["last_error"]) == 1024


def test_the_page_on_the_wire_says_how_much_a_catalogue_holds() -> None:
    said = f"{store.MOST_AGENTS} agents, {store.MOST_OF_ONE} instances of one agent, and {store.MOST_OF_ALL} instances"
    assert said in (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


@pytest.mark.parametrize("redis", ["there", "away"])
async def test_most_instances_speak_for_the_agent_and_of_as_many_the_newest(
    bus: MemoryTransport, redis_server: Server, redis: str
) -> None:
    with redis_server.client() as client:
        client.flushall()
    url = redis_server.url if redis == "there" else "redis://127.0.0.1:1/0"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(bus, build(url)))
        ask = Asker(await stack.enter_async_context(Fabric.over(bus)))
        workers: list[Worker] = []
        for offered, speaks in (("x", "x"), ("y", "y"), ("x", "x"), ("y", "y"), ("y", "y"), ("z", "y")):
            workers.append(await stack.enter_async_context(serving(bus, offering("a", offered))))
            await ask.see(a=[worker.instance for worker in workers])
            assert await ask.tools("a") == [speaks]
            assert await ask.tools("a", workers[-1].description.digest) == [offered]


def test_who_drains_has_no_vote_unless_all_do() -> None:
    def one(digest: str, started: float, state: str) -> Beat:
        return Beat.model_validate(beat(digest=digest, started=started, state=state))

    old = [one("old", float(number), "draining") for number in range(3)]
    assert service.speaking([*old, one("new", 0.5, "ready")]) == "new"
    assert service.speaking([*old, one("new", 0.5, "draining")]) == "old"


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
