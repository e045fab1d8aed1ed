"""The agent `durable`: agents look after tasks, dead letters, schedules and schemas as operators do.

Proves: MB-5 (the same as an agent's tools), MB-8, EV-4, PT-3
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric.durable.service import agent as durable
from fabric.durable.tasks import listed, located
from fabric_sdk import Agent, Fabric, FabricError, Policy, Reject
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import KeyReused, TaskDead, UnknownTask
from fabric_sdk.patterns.dead import DeadLetter, DeadLetters
from fabric_sdk.remote import AgentClient
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

READS = {"list_tasks", "show_task", "list_dead", "show_dead", "list_schedules", "list_schemas", "replay_events"}
DESTROYS = {"cancel_task", "purge_dead", "remove_schedule", "set_schedule"}
CHANGES = {"redrive_dead", "register_schema", "start_task", "publish_event"}
NOTHING: dict[str, Any] = {"found": [], "more": False}
MANY = 3000


def handled(*ids: str) -> dict[str, Any]:
    """What is told where these letters are done with."""
    return {"done": len(ids), "passed_over": 0, "ids": list(ids)}


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as nats:
        yield nats


class Shop:
    """An agent of its own for each test, which refuses payments until somebody mends it."""

    def __init__(self, name: str, fabric: Fabric) -> None:
        self.mended = False
        self.fabric = fabric
        self.workers: list[Worker] = []
        self.served = Agent(name)
        self.client = fabric.agent(name)

        @self.served.tool(task=Policy(attempts=1))
        async def pay(to: str) -> str:
            if not self.mended:
                raise Reject(f"no money for {to}")
            return f"paid {to}"

        @self.served.tool
        async def add(a: int, b: int = 0) -> int:
            return a + b

    async def dies(self, to: str) -> str:
        """The id of a task that died."""
        task = await self.client.start("pay", {"to": to}, key=f"pay-{to}")
        with pytest.raises(TaskDead):
            await task.result(timeout=10)
        return task.id


@pytest.fixture
async def shop(nats: PrivateNats) -> AsyncGenerator[Shop]:
    async with AsyncExitStack() as stack:
        fabric = await stack.enter_async_context(Fabric.connect(nats.url))
        shop = Shop(f"shop-{uuid4().hex[:8]}", fabric)
        for served in (shop.served, durable):
            transport = await NatsTransport.connect(nats.url)
            stack.push_async_callback(transport.close)
            shop.workers.append(Worker(transport, served))
            await shop.workers[-1].start()
            stack.push_async_callback(shop.workers[-1].drain, 0.0)
        yield shop


@pytest.fixture
def keeper(shop: Shop) -> AgentClient:
    """The agent `durable`, seen from another."""
    return shop.fabric.agent("durable")


async def test_each_tool_says_whether_it_reads_changes_or_destroys(keeper: AgentClient) -> None:
    described = await keeper.describe()
    assert described.kind == "platform"
    hints: dict[str, dict[str, Any]] = {tool["name"]: tool["annotations"] for tool in described.tools}
    assert {name for name, each in hints.items() if each.get("readOnlyHint")} == READS
    assert {name for name, each in hints.items() if each.get("destructiveHint")} == DESTROYS
    assert {name for name, each in hints.items() if each.get("destructiveHint") is False} == CHANGES
    assert set(hints) == READS | DESTROYS | CHANGES


async def test_tasks_are_listed_shown_and_cancelled(shop: Shop, keeper: AgentClient) -> None:
    done = await shop.client.start("add", {"a": 1, "b": 2})
    assert await done.result(timeout=10) == 3
    later = await shop.client.start("add", {"a": 1}, delay=60.0)
    listed = await keeper.call("list_tasks", {"agent": shop.client.name})
    assert [(each["id"], each["state"]) for each in listed] == [(done.id, "completed"), (later.id, "queued")]
    shown = await keeper.call("show_task", {"id": done.id})
    assert (shown["agent"], shown["result"]["structuredContent"]["result"]) == (shop.client.name, 3)
    assert (await keeper.call("cancel_task", {"id": later.id}))["state"] == "cancelled"
    assert (await later.status()).state == "cancelled"
    assert await keeper.call("list_tasks", {"agent": shop.client.name, "state": "queued"}) == []
    assert [each["id"] for each in await keeper.call("list_tasks", {"agent": shop.client.name, "limit": 1})] == [
        later.id
    ]
    for wrong in ({"agent": "*"}, {"state": "lost"}, {"limit": 0}, {"limit": 10_000}):
        with pytest.raises(FabricError):
            await keeper.call("list_tasks", wrong)


async def test_a_task_is_started_and_joined_by_its_key(shop: Shop, keeper: AgentClient) -> None:
    wanted = {"agent": shop.client.name, "tool": "add", "arguments": {"a": 1, "b": 2}, "key": "k", "priority": "high"}
    started = await keeper.call("start_task", wanted)
    assert (started["agent"], started["tool"], started["joined"]) == (shop.client.name, "add", False)
    assert await shop.client.task(started["id"]).result(timeout=10) == 3
    assert await keeper.call("start_task", wanted) == {**started, "joined": True}
    with pytest.raises(KeyReused, match=f"the key 'k' names task {started['id']} .*give other work another key"):
        await keeper.call("start_task", {**wanted, "arguments": {"a": 1, "b": 3}})
    later = await keeper.call("start_task", {"agent": shop.client.name, "tool": "add", "delay": 60, "expires": 90})
    assert (await keeper.call("show_task", {"id": later["id"]}))["state"] == "queued"
    for wrong in ({"agent": "*"}, {"priority": "urgent"}, {"delay": -1}, {"key": "a b"}, {"expires": "soon"}):
        with pytest.raises(FabricError):
            await keeper.call("start_task", {"agent": shop.client.name, "tool": "add", **wrong})


async def test_a_schedule_is_set_and_replaced(shop: Shop, keeper: AgentClient) -> None:
    wanted = {"agent": shop.client.name, "name": "often", "when": "every 1h", "tool": "add", "arguments": {"a": 1}}
    for when in ("every 1h", "@daily"):
        await keeper.call("set_schedule", {**wanted, "when": when})
        (found,) = (await keeper.call("list_schedules", {"agent": shop.client.name}))["found"]
        assert (found["when"], found["tool"], found["arguments"]) == (when, "add", {"a": 1})
    with pytest.raises(FabricError, match="'never' is no schedule"):
        await keeper.call("set_schedule", {**wanted, "when": "never"})
    await keeper.call("remove_schedule", {"agent": shop.client.name, "name": "often"})


async def test_events_are_published_and_the_past_is_read_page_by_page(shop: Shop, keeper: AgentClient) -> None:
    topic = f"{shop.client.name}.said"
    events = [await keeper.call("publish_event", {"topic": topic, "data": {"n": n}, "id": f"e{n}"}) for n in range(5)]
    again = await keeper.call("publish_event", {"topic": topic, "data": {"n": 4}, "id": "e4"})
    assert again["sequence"] == events[4]["sequence"]
    asked: dict[str, Any] = {"topics": [topic], "limit": 2}
    read, more = list[Any](), True
    while more:
        page = await keeper.call("replay_events", asked)
        read, more = read + page["found"], page["more"]
        assert len(page["found"]) <= 2
        asked["after"] = read[-1]["sequence"]
    assert [(each["id"], each["data"]) for each in read] == [(f"e{n}", {"n": n}) for n in range(5)]
    filtered = await keeper.call("replay_events", {"topics": [topic], "filter": "data.n > 3"})
    assert [each["id"] for each in filtered["found"]] == ["e4"]
    since = {"topics": [topic], "since": read[3]["time"]}
    assert [each["id"] for each in (await keeper.call("replay_events", since))["found"]] == ["e3", "e4"]
    for wrong in ({"topics": ["a..b"]}, {"filter": "data.("}, {"limit": 0}, {"since": "then"}):
        with pytest.raises(FabricError):
            await keeper.call("replay_events", wrong)


async def test_a_page_of_large_events_fits_into_a_message(shop: Shop, keeper: AgentClient) -> None:
    topic = f"{shop.client.name}.large"
    for n in range(4):
        await shop.fabric.publish(topic, {"n": n, "text": "x" * 400_000})
    page = await keeper.call("replay_events", {"topics": [topic]})
    assert (len(page["found"]), page["more"]) == (1, True)


async def test_dead_letters_are_looked_at_sent_again_and_purged(shop: Shop, keeper: AgentClient) -> None:
    one, two, three = [await shop.dies(to) for to in ("Ann", "Bob", "Cid")]
    mine = {"agent": shop.client.name}
    letters = (await keeper.call("list_dead", mine))["found"]
    assert [(each["id"], each["attempts"]) for each in letters] == [(each, 1) for each in (one, two, three)]
    assert "no money for Ann" in letters[0]["error"]
    assert await keeper.call("list_dead", mine | {"error": "BOB"}) == {"found": [letters[1]], "more": False}
    assert await keeper.call("list_dead", mine | {"before": letters[0]["died"]}) == NOTHING
    assert await keeper.call("list_dead", mine | {"limit": 2}) == {"found": letters[:2], "more": True}
    rest = await keeper.call("list_dead", mine | {"limit": 2, "after": letters[1]["sequence"]})
    assert rest == {"found": letters[2:], "more": False}
    shown = await keeper.call("show_dead", {"id": one})
    assert shown["params"] == {"name": "pay", "arguments": {"to": "Ann"}}
    assert shown["headers"]["Fab-Key"] == "pay-Ann"
    for unclear in ({}, {"ids": [one], "everything": True}, {"ids": [one], "tool": "pay"}):
        for tool in ("redrive_dead", "purge_dead"):
            with pytest.raises(FabricError, match="chosen"):
                await keeper.call(tool, unclear)
    with pytest.raises(FabricError, match="no dead letter"):
        await keeper.call("purge_dead", {"ids": [one, "other"]})
    assert len((await keeper.call("list_dead", mine))["found"]) == 3, "nothing is done where one of the ids is wrong"

    shop.mended = True
    assert await keeper.call("redrive_dead", {"ids": [one, one]}) == handled(one)
    assert await shop.client.task(one).result(timeout=10) == "paid Ann"
    purged = await keeper.call("purge_dead", mine | {"everything": True, "error": "bob"})
    assert purged == handled(two)
    assert await keeper.call("redrive_dead", mine | {"everything": True}) == handled(three)
    assert await keeper.call("list_dead", mine) == NOTHING


async def test_thousands_of_letters_are_handled_and_none_is_held(
    shop: Shop, keeper: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, held, delete = f"{shop.client.name}-many", list[int](), DeadLetters.purge
    letter = {"agent": name, "tool": "pay", "died": time.time(), "params": {"name": "pay"}}
    for start in range(0, MANY, 500):
        messages = [
            Message(subjects.dead(name, f"t{n}"), Body(letter | {"id": f"t{n}"})) for n in range(start, start + 500)
        ]
        await shop.fabric.jetstream.store_all(messages)

    async def purge(dead: DeadLetters, letter: DeadLetter) -> bool:
        if letter.id.endswith("99"):
            held.append(sum(type(each) is DeadLetter for each in gc.get_objects()))
        return await delete(dead, letter)

    monkeypatch.setattr(DeadLetters, "purge", purge)
    purged = await keeper.call("purge_dead", {"agent": name, "everything": True})
    assert (purged["done"], purged["passed_over"]) == (MANY, 0)
    assert purged["ids"] == [f"t{n}" for n in range(1000)], "so many as fit into an answer"
    assert len(held) == MANY // 100
    assert max(held) < 10
    assert await keeper.call("list_dead", {"agent": name}) == NOTHING


async def test_what_dies_again_while_all_are_sent_again_is_not_sent_a_third_time(
    shop: Shop, keeper: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [await shop.dies(to) for to in ("Gil", "Hal", "Ida")]
    redrive, redriven = DeadLetters.redrive, list[str]()

    async def redrive_and_wait(dead: DeadLetters, letter: DeadLetter) -> bool:
        done = await redrive(dead, letter)
        redriven.append(letter.id)
        with pytest.raises(TaskDead):
            await shop.client.task(letter.id).result(timeout=10)
        return done

    monkeypatch.setattr(DeadLetters, "redrive", redrive_and_wait)
    mine = {"agent": shop.client.name}
    assert await keeper.call("redrive_dead", mine | {"everything": True}, timeout=20.0) == handled(*tasks)
    assert redriven == tasks
    letters = (await keeper.call("list_dead", mine))["found"]
    assert [(each["id"], each["attempts"]) for each in letters] == [(task, 2) for task in tasks]


async def test_what_no_worker_has_taken_yet_is_listed_as_waiting(shop: Shop, keeper: AgentClient) -> None:
    task = await shop.dies("Dan")
    await shop.workers[0].drain(0.0)
    assert await keeper.call("redrive_dead", {"ids": [task]}) == handled(task)  # its record still says: dead
    new = await shop.client.start("pay", {"to": "Eve"}, priority="low")
    for state in (None, "queued"):
        found = await listed(shop.fabric, agent=shop.client.name, state=state)
        assert {each.id: each.state for each in found} == {task: "queued", new.id: "queued"}
    assert await listed(shop.fabric, agent=shop.client.name, state="dead") == []
    for each in (task, new.id):
        assert (await located(shop.fabric, each)).agent == shop.client.name
    with pytest.raises(UnknownTask):
        await located(shop.fabric, "0123")


async def test_schedules_are_listed_and_removed(shop: Shop, keeper: AgentClient) -> None:
    await shop.client.schedule("nightly", "30 2 * * *", "add", {"a": 1}, zone="Europe/Rome")
    (listed,) = (await keeper.call("list_schedules", {"agent": shop.client.name}))["found"]
    await shop.client.start("add", {"a": 1}, delay=60.0)
    first = await keeper.call("list_schedules", {"agent": shop.client.name, "limit": 1})
    assert first == {"found": [listed], "more": True}
    assert (listed["name"], listed["when"], listed["zone"]) == ("nightly", "30 2 * * *", "Europe/Rome")
    assert 0 < listed["next"] - time.time() < 86_400 + 3600
    with pytest.raises(FabricError):
        await keeper.call("remove_schedule", {"agent": "*", "name": "nightly"})
    await keeper.call("remove_schedule", {"agent": shop.client.name, "name": "nightly"})
    with pytest.raises(FabricError, match="has no schedule 'nightly'"):
        await keeper.call("remove_schedule", {"agent": shop.client.name, "name": "nightly"})


async def test_schemas_are_registered_and_listed(shop: Shop, keeper: AgentClient) -> None:
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    first = await keeper.call("register_schema", {"topic": "users.new", "schema": schema})
    assert (first["version"], first["compatibility"]) == (1, "full")
    again = await keeper.call("register_schema", {"topic": "users.new", "schema": schema})
    assert again == first, "the same once more changes nothing"
    with pytest.raises(FabricError, match="not full-compatible"):
        await keeper.call("register_schema", {"topic": "users.new", "schema": {"type": "string"}})
    assert await keeper.call("list_schemas", {"topics": "users.*", "limit": 1}) == {"found": [first], "more": False}
    with pytest.raises(FabricError, match="does not fit"):
        await shop.fabric.publish("users.new", {"id": "x"})


async def test_many_tasks_are_listed_within_bounds(shop: Shop) -> None:
    plans = [shop.client.plan("add", {"a": number}) for number in range(300)]
    tasks = await shop.fabric.start_all(plans)

    await asyncio.gather(*(task.result(timeout=30) for task in tasks))
    found = await listed(shop.fabric, agent=shop.client.name, state="completed", limit=1000)
    assert {each.id for each in found} == {task.id for task in tasks}
    assert {each.result for each in found} == {None}, "results may be large: thousands are not held at once"
    newest = await listed(shop.fabric, agent=shop.client.name, limit=10)
    assert len(newest) == 10
    assert newest == sorted(newest, key=lambda record: record.changed)


async def test_what_is_none_of_ours_hides_nothing(shop: Shop, keeper: AgentClient) -> None:
    task = await shop.dies("Fay")
    name, store = shop.client.name, shop.fabric.jetstream.store
    odd = {"id": "odd", "agent": name, "died": 1.0, "queued": "then", "changed": 1.0, "errors": ["odd"]}
    for subject in (subjects.record(name, "odd"), subjects.dead(name, "odd")):
        await store(subject, Body(odd))
        await store(subject.replace("odd", "odder"), Body(encoded=b"odd"))
    assert [each["id"] for each in await keeper.call("list_tasks", {"agent": name})] == [task]
    assert [each["id"] for each in (await keeper.call("list_dead", {"agent": name}))["found"]] == [task]
    assert await keeper.call("purge_dead", {"agent": name, "everything": True}) == handled(task)
