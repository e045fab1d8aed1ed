"""Agents react to events: each once, tried again, put with the dead letters, whoever is killed.

Proves: EV-1, EV-2, EV-5.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.events import program, publish_all, take
from support.nats_server import PrivateNats
from support.waiting import eventually

from fabric_sdk import Agent, Context, Event, Fabric, Policy
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams
from fabric_sdk.contracts.streams import EVENTS, group_lane, task_lane
from fabric_sdk.contracts.task import PRIORITIES
from fabric_sdk.patterns.dead import DeadLetter, Which
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

pytestmark = pytest.mark.anyio

REACTOR = Path(__file__).with_name("reactor.py")
HASTY = Policy(attempts=3, first_wait=0.02)


@asynccontextmanager
async def serving(url: str, *agents: Agent) -> AsyncGenerator[None]:
    """A worker for each of `agents`, on a connection of its own, that has begun to listen."""
    async with AsyncExitStack() as stack:
        for agent in agents:
            transport = await NatsTransport.connect(url)
            stack.push_async_callback(transport.close)
            worker = Worker(transport, agent)
            await worker.start()
            stack.push_async_callback(worker.drain)
        async with Fabric.connect(url) as fabric:
            for agent in agents:
                for reaction in agent.reactions:
                    await listening(fabric, f"group-{agent.name}-{reaction}")
        yield


async def listening(fabric: Fabric, group: str) -> None:
    """Return when somebody waits for the events of `group`."""
    await fabric.jetstream.ensure(EVENTS)
    async with asyncio.timeout(10):
        while True:
            listed = await fabric.jetstream.request(f"CONSUMER.LIST.{EVENTS.name}")
            if any(each["name"] == group and each["num_waiting"] for each in listed["consumers"]):
                return
            await asyncio.sleep(0.02)


async def test_each_event_is_reacted_to_once_by_either_of_two_workers(
    keeping: PrivateNats, fabric: Fabric, word: str
) -> None:
    seen: list[tuple[str, int]] = []
    done = asyncio.Event()

    def agent() -> Agent:
        agent = Agent(word)

        @agent.on(f"{word}.*", filter="data % 2 == 0", transform="data * 10")
        async def note(event: Event, ctx: Context) -> None:
            seen.append((ctx.instance, event.data))
            await asyncio.sleep(0.005)
            if len(seen) >= 150:
                done.set()

        return agent

    async with serving(keeping.url, agent(), agent()), asyncio.timeout(20):
        await publish_all(fabric, f"{word}.a", range(300))
        await done.wait()
    assert sorted(number for _, number in seen) == [number * 10 for number in range(0, 300, 2)]


async def test_a_reaction_knows_the_event(keeping: PrivateNats, fabric: Fabric, word: str) -> None:
    agent = Agent(word)
    heard: asyncio.Queue[Event] = asyncio.Queue()

    @agent.on(f"{word}.a")
    async def note(event: Event) -> None:
        heard.put_nowait(event)

    async with serving(keeping.url, agent):
        sent = await fabric.publish(f"{word}.a", {"n": 1}, id="i", subject="s")
        async with asyncio.timeout(10):
            event = await heard.get()
    assert (event.about(), event.data) == (sent.about(), {"n": 1})


async def test_the_same_event_delivered_twice_is_reacted_to_once(
    keeping: PrivateNats, fabric: Fabric, word: str
) -> None:
    agent = Agent(word)
    seen: Counter[str] = Counter()

    @agent.on(f"{word}.*")
    async def note(event: Event) -> None:
        seen[f"{event.topic} {event.id}"] += 1

    async with serving(keeping.url, agent):
        for topic in ("a", "b"):
            message = (await fabric.publish(f"{word}.{topic}", 1, id="same")).message()
            headers = {name: value for name, value in (message.headers or {}).items() if name != "Nats-Msg-Id"}
            for _ in range(3):  # as from a publisher that does not know of the server's deduplication
                await fabric.jetstream.store(message.subject, message.body, headers)
        await fabric.publish(f"{word}.a", 1, id="last")
        await eventually(lambda: len(seen) == 3)
    assert seen == {f"{word}.a same": 1, f"{word}.b same": 1, f"{word}.a last": 1}


async def test_a_reaction_that_fails_is_tried_again_then_dead_and_publishes_once(
    keeping: PrivateNats, fabric: Fabric, word: str
) -> None:
    agent = Agent(word)
    attempts: Counter[str] = Counter()

    @agent.on(f"{word}.job", task=HASTY)
    async def do(event: Event, ctx: Context) -> None:
        attempts[event.data] += 1
        await ctx.fabric.publish(f"{word}.done", event.data)
        if event.data == "hopeless" or attempts[event.data] == 1:
            raise RuntimeError("not now")

    async with serving(keeping.url, agent):
        for job in ("hopeless", "at first"):
            await fabric.publish(f"{word}.job", job)
        letters = await dead_letters(fabric, word)
        await eventually(lambda: attempts["at first"] == 2)
    assert attempts == {"hopeless": 3, "at first": 2}
    assert [letter.params["arguments"]["data"] for letter in letters] == ["hopeless"]
    assert "not now" in letters[0].errors[-1]["error"]
    async with fabric.replay(f"{word}.done") as events:
        assert sorted([event.data async for event in events]) == ["at first", "hopeless"]


async def test_what_does_not_fit_the_transformation_is_not_lost(
    keeping: PrivateNats, fabric: Fabric, word: str
) -> None:
    seen: list[Any] = []

    def agent(transform: str) -> Agent:
        agent = Agent(word)

        @agent.on(f"{word}.a", transform=transform, task=HASTY)
        async def note(event: Event) -> None:
            seen.append(event.data)

        return agent

    async with serving(keeping.url, agent("data.total * 2")):
        for event in ({"sum": 1}, {"total": 2}):
            await fabric.publish(f"{word}.a", event)
        letters = await dead_letters(fabric, word)
        await eventually(lambda: seen == [4])
    assert len(letters[0].errors) == 1, "it was tried again, though it never will fit"
    assert letters[0].params["arguments"]["data"] == {"sum": 1}
    async with serving(keeping.url, agent("data.sum * 2")):  # mended
        await fabric.dead.redrive(letters[0])
        await eventually(lambda: seen == [4, 2])


async def dead_letters(fabric: Fabric, agent: str) -> list[DeadLetter]:
    """The dead letters of an agent, once there are any."""
    async with asyncio.timeout(10):
        while not (found := [letter async for letter in fabric.dead.find(Which(agent=agent))]):  # noqa: ASYNC110 - dies somewhere else
            await asyncio.sleep(0.02)
    return found


async def test_events_wait_for_an_agent_that_is_away(keeping: PrivateNats, fabric: Fabric, word: str) -> None:
    agent = Agent(word)
    seen: list[int] = []

    @agent.on(f"{word}.a")
    async def note(event: Event) -> None:
        seen.append(event.data)

    async with serving(keeping.url, agent):
        await fabric.publish(f"{word}.a", 1)
        await eventually(lambda: seen == [1])
    await fabric.publish(f"{word}.a", 2)
    async with serving(keeping.url, agent):
        await eventually(lambda: seen == [1, 2])


async def test_a_killed_worker_costs_no_event_and_doubles_none(keeping: PrivateNats, fabric: Fabric, word: str) -> None:
    # As short as a test can wait for; those of the product are the same otherwise.
    group = group_lane(f"{word}-do", (f"{word}.job",), {"deliver_policy": "all"})
    for lane in (group, *(task_lane(word, priority) for priority in PRIORITIES)):
        await fabric.jetstream.ensure_consumer(replace(lane, ack_wait=1.5))
    arguments = (REACTOR, keeping.url, word)
    with program(*arguments) as victim, program(*arguments) as survivor:
        assert [await each.says() for each in (victim, survivor)] == ["ready", "ready"]
        async with fabric.subscribe(f"{word}.done") as events:
            publishing = asyncio.create_task(publish_all(fabric, f"{word}.job", range(200)))
            done = await take(events, 20)
            victim.kill()
            await publishing
            done += await take(events, 180)
            assert sorted(event.data for event in done) == list(range(200))
            end = await fabric.publish(f"{word}.done", "end")
            assert (await anext(events)).sequence == end.sequence, "something was done twice"


def test_what_cannot_react_is_refused_where_it_is_written() -> None:
    agent = Agent("refusing")

    async def fine(event: Event) -> None: ...

    async def two(event: Event, another: Event) -> None: ...

    def not_async(event: Event) -> None: ...

    for wrong in (two, not_async):
        with pytest.raises(ConfigurationError):
            agent.on("a")(wrong)  # type: ignore[type-var]
    wanted: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((), {}),
        (("a..b",), {}),
        (("a",), {"filter": "("}),
        (("a",), {"transform": "("}),
    ]
    for topics, options in wanted:
        with pytest.raises(InvalidParams):
            agent.on(*topics, **options)(fine)
    agent.on("a")(fine)
    with pytest.raises(ConfigurationError, match="already"):
        agent.on("b")(fine)


@pytest.mark.parametrize("kind", ["JSONDecodeError", "TypeError"])
async def test_what_a_reaction_raises_is_tried_again_and_told_by_its_kind(
    keeping: PrivateNats, fabric: Fabric, word: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent, tried = Agent(word), Counter[str]()

    @agent.on(f"{word}.a", task=HASTY)
    async def react(event: Event) -> None:
        tried[kind] += 1
        if kind == "TypeError":
            raise TypeError("not so")
        json.loads(event.data)

    async with serving(keeping.url, agent):
        await fabric.publish(f"{word}.a", "{")
        (letter,) = await dead_letters(fabric, agent.name)
    assert tried[kind] == HASTY.attempts
    assert {each["error"].partition(":")[0] for each in letter.errors} == {kind}
    assert "in react" in caplog.text, "with its traceback"
