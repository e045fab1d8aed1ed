"""A task from its start to its end, as whoever started it sees it. Proves: MB-2, MB-6, MB-8, PT-2, PT-3."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from support.nats_server import PrivateNats, private_nats
from support.waiting import Ear, eventually
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy, Retry, ToolError, doing, taking
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts import task as contract
from fabric_sdk.contracts.scope import Scope, current_scope
from fabric_sdk.contracts.streams import DUPLICATE_WINDOW, OBJECTS, TASKS
from fabric_sdk.contracts.task import DEFAULT_KEEP
from fabric_sdk.handle import Task
from fabric_sdk.jetstream import api
from fabric_sdk.patterns import task as patterns
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Limits, Worker


class Gate:
    """A tool that waits until the test lets it go, and says that it was begun."""

    def __init__(self, agent: Agent, name: str = "hold", policy: Policy | None = None) -> None:
        self.begun: list[Context] = []
        self.ended: list[BaseException | None] = []
        self.go = asyncio.Event()

        async def hold(context: Context, n: int = 0) -> int:
            self.begun.append(context)
            try:
                await self.go.wait()
            except BaseException as end:
                self.ended.append(end)
                raise
            self.ended.append(None)
            return n

        agent.tool(task=policy, name=name)(hold)

    async def holds(self, count: int = 1) -> None:
        await eventually(lambda: len(self.begun) >= count, what=f"the beginning of {count} attempts")


def offer_echo(agent: Agent, ran: list[Any]) -> None:
    @agent.tool
    async def echo(value: Any = None) -> Any:
        ran.append(value)
        return value


@pytest.fixture
def ran(agent: Agent) -> list[Any]:
    """What the tool `echo` was run with."""
    ran: list[Any] = []
    offer_echo(agent, ran)
    return ran


# Results


@pytest.mark.parametrize("value", [1, 1.5, "ü", True, None, [], [1, "x"], {"a": {"b": [None]}}, {}, ""], ids=repr)
async def test_a_task_gives_the_value_that_its_tool_returned(
    fabric: Fabric, serve: Serve, agent: Agent, value: Any
) -> None:
    @agent.tool
    async def give() -> Any:
        return value

    await serve(agent)
    task = await fabric.agent(agent.name).start("give")
    assert await task.result(timeout=10) == value
    record = await task.status()
    assert (record.state, record.attempt, record.errors, record.tool) == ("completed", 1, [], "give")


async def test_the_same_tool_serves_calls_and_tasks(fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    assert await client.call("echo", {"value": 1}) == 1
    assert await (await client.start("echo", {"value": 2})).result(timeout=10) == 2
    assert ran == [1, 2]


async def test_a_tool_that_answers_with_an_error_of_its_own_has_completed(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    @agent.tool
    async def refuse() -> None:
        raise ToolError("not on Sundays")

    await serve(agent)
    task = await fabric.agent(agent.name).start("refuse")
    with pytest.raises(ToolError, match="not on Sundays"):
        await task.result(timeout=10)
    record = await task.status()
    assert (record.state, record.attempt, record.result["isError"]) == ("completed", 1, True)


async def test_what_a_task_knows_of_itself(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    seen: list[Context] = []

    @agent.tool(task=Policy(timeout=30))
    async def look(context: Context) -> None:
        seen.append(context)

    await serve(agent)
    client = fabric.agent(agent.name)
    token = current_scope.set(Scope(time.time() + 5, principal="ann"))
    keyed = await client.start("look", key="order-1")
    current_scope.reset(token)
    await keyed.result(timeout=10)
    other = await client.start("look")
    await other.result(timeout=10)
    first, second = seen
    assert first.task is not None
    assert second.task is not None
    assert (first.key, first.principal, first.task.id, first.task.attempt) == ("order-1", "ann", keyed.id, 1)
    assert (second.key, second.principal, second.task.id) == (other.id, None, other.id)
    assert 25 < first.remaining <= 30, "a task's time is its policy's, not its sender's"
    assert (await keyed.status()).principal == "ann"


async def test_progress_is_heard_kept_and_watched(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    gate = asyncio.Event()

    @agent.tool
    async def climb(context: Context) -> str:
        await context.progress(1, 3, "base")
        await context.info("tired")
        await gate.wait()
        await context.progress(2, 3, "camp")
        return "top"

    await serve(agent)
    heard: list[Any] = []
    ear = Ear()
    task = await fabric.agent(agent.name).start("climb", delay=0.2)
    await fabric.transport.subscribe(task.subject, ear)
    states = asyncio.create_task(collect(task))
    kept = asyncio.create_task(first(task, lambda record: record.progress is not None))

    def hear(done: float, total: float | None, words: str | None) -> None:
        heard.append((done, total, words))

    result = asyncio.create_task(task.result(timeout=10, on_progress=hear))
    assert (await kept).progress == {"progress": 1, "total": 3, "message": "base"}
    gate.set()
    assert await result == "top"
    assert heard[-1] == (2, 3, "camp")
    assert (await states)[-1] == "completed"
    await eventually(lambda: ear.values and "state" in frame(ear.values[-1]), what="the record that is told")
    assert frame(ear.values[-1])["state"] == "completed", "a listener that is no client of ours hears it, too"


def frame(value: object) -> dict[str, Any]:
    """A JSON object."""
    assert isinstance(value, dict)
    return cast("dict[str, Any]", value)


async def collect(task: Task) -> list[str]:
    """The states that a task goes through."""
    return [record.state async for record in task.changes()]


async def first(task: Task, wanted: Callable[[Any], bool]) -> Any:
    """The first of a task's records that is wanted."""
    async for record in task.changes():
        if wanted(record):
            return record
    raise AssertionError("the task ended without")


async def test_a_task_that_says_nothing_is_seen_running(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    gate = Gate(agent)
    worker = await serve(agent)
    task = await fabric.agent(agent.name).start("hold", {"n": 4})
    record = await first(task, lambda record: record.state == "running")
    assert (record.instance, record.attempt) == (worker.instance, 1)
    gate.go.set()
    assert await task.result(timeout=10) == 4


async def test_a_handle_is_made_anew_anywhere(fabric: Fabric, server: PrivateNats, serve: Serve, agent: Agent) -> None:
    gate = Gate(agent)
    await serve(agent)
    task = await fabric.agent(agent.name).start("hold", {"n": 5})
    async with Fabric.connect(server.url) as other:
        again = other.agent(agent.name).task(task.id)
        waiting = asyncio.create_task(again.result(timeout=10))
        gate.go.set()
        assert await waiting == 5
        assert (await again.cancel()).state == "completed", "what has ended stays as it is"
    assert await task.result(timeout=10) == 5


async def test_waiting_ends_and_the_task_goes_on(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    gate = Gate(agent)
    await serve(agent)
    task = await fabric.agent(agent.name).start("hold", {"n": 6})
    await gate.holds()
    with pytest.raises(errors.DeadlineExceeded, match="it goes on"):
        await task.result(timeout=0.05)
    gate.go.set()
    assert await task.result(timeout=10) == 6


@pytest.mark.parametrize("unknown", ["nobody", "0" * 32])
async def test_what_there_is_not_is_unknown(fabric: Fabric, agent: Agent, unknown: str) -> None:
    task = fabric.agent(agent.name).task(unknown)
    for ask in (task.status, task.result, task.cancel):
        with pytest.raises(errors.UnknownTask, match=unknown):
            await ask()


@pytest.mark.parametrize("unusable", ["", "a.b", "*", ">", "a b"], ids=repr)
def test_what_can_be_no_id_is_refused(agent: Agent, unusable: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        Fabric(MemoryTransport()).agent(agent.name).task(unusable)


async def test_an_end_is_kept_for_as_long_as_it_was_asked_to(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "_LEAST_KEPT", 1)
    await serve(agent)
    client = fabric.agent(agent.name)
    short, long = await client.start("echo", keep=1), await client.start("echo", keep=60)
    await asyncio.gather(short.result(timeout=10), long.result(timeout=10))

    async def forgotten() -> None:
        while True:
            await short.status()
            await asyncio.sleep(0.05)

    with pytest.raises(errors.UnknownTask):
        await asyncio.wait_for(forgotten(), 10)
    assert (await long.status()).state == "completed"


def test_a_key_is_known_for_at_least_as_long_as_the_server_knows_it_by_itself(agent: Agent) -> None:
    client = Fabric(MemoryTransport()).agent(agent.name)
    assert client.plan("echo", key="k", keep=1).keep == DUPLICATE_WINDOW
    assert client.plan("echo", key="k").keep == DEFAULT_KEEP
    assert client.plan("echo", keep=1).keep == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"priority": "urgent"}, "critical, high, normal, low"),
        ({"key": "two words"}, "printable ASCII"),
        ({"key": ""}, "1 to 128"),
        ({"keep": 0.5}, "kept for 1 to"),
        ({"delay": 1, "at": 2}, "not both"),
        ({"at": datetime(2030, 1, 1)}, "needs its zone"),  # noqa: DTZ001 - that is what is refused
    ],
    ids=str,
)
async def test_a_start_that_cannot_be_meant_is_refused(
    fabric: Fabric, agent: Agent, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidParams, match=words):
        await fabric.agent(agent.name).start("echo", **how)


async def test_what_is_too_large_for_a_message_is_kept_apart_and_cleared_away(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    client, large = fabric.agent(agent.name), {"value": "x" * 1_500_000}
    await serve(agent)
    tasks = [
        await client.start("echo", large),
        await client.start("echo", large, delay=0.2),
        *await fabric.start_all([client.plan("echo", large)]),
    ]
    for task in tasks:
        assert await task.result(timeout=20) == large["value"]
    results = [(await task.status()).claim.partition(".")[0] for task in tasks]

    async def only_results() -> bool:
        kept = fabric.jetstream.every(OBJECTS, OBJECTS.subjects[0])
        return {message.subject.split(".")[2] async for message in kept} == set(results)

    async with asyncio.timeout(10):  # what was asked is cleared away once its end is on record
        while not await only_results():  # noqa: ASYNC110 - what is waited for here sets no event
            await asyncio.sleep(0.05)


# Cancelling


async def test_a_task_cancelled_in_the_queue_is_never_begun(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    client = fabric.agent(agent.name)
    task, other = await client.start("echo", {"value": "cancelled"}), await client.start("echo", {"value": "done"})
    assert (await task.cancel()).state == "cancelled"
    assert (await task.cancel()).state == "cancelled"
    with pytest.raises(errors.TaskCancelled):
        await task.result(timeout=10)
    await serve(agent)
    await other.result(timeout=10)
    assert ran == ["done"]


async def test_a_task_cancelled_while_it_runs_is_ended_there(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    gate = Gate(agent)
    await serve(agent)
    task = await fabric.agent(agent.name).start("hold")
    await gate.holds()
    assert (await task.cancel()).state == "cancelled"
    await eventually(lambda: gate.ended, what="the end of the handler")
    assert isinstance(gate.ended[0], asyncio.CancelledError)
    assert gate.begun[0].cancelled
    assert (await task.status()).state == "cancelled"
    assert len(gate.begun) == 1


async def test_a_task_cancelled_at_a_worker_without_a_free_hand_is_never_begun(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    gate = Gate(agent)
    await serve(agent, tasks=1)
    client = fabric.agent(agent.name)
    running = await client.start("hold")
    await gate.holds()
    task = await client.start("echo", {"value": "cancelled"})
    await task.cancel()
    gate.go.set()
    await running.result(timeout=10)
    await (await client.start("echo", {"value": "done"})).result(timeout=10)
    assert ran == ["done"]


async def test_a_cancelled_task_that_nobody_told_of_is_ended_at_its_next_word(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unheard(_taker: taking.TaskTaker, _task_id: str) -> None:
        """The news got lost."""

    monkeypatch.setattr(taking.TaskTaker, "cancel", unheard)
    gate = Gate(agent)
    await serve(agent)
    task = await fabric.agent(agent.name).start("hold", key="k")
    await gate.holds()
    await gate.begun[0].progress(1)
    assert (await task.cancel()).state == "cancelled"
    await gate.begun[0].progress(2)
    await eventually(lambda: gate.ended, what="the end of the handler")
    assert (await task.status()).state == "cancelled"


async def test_a_delayed_task_is_cancelled(fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    task = await client.start("echo", {"value": "cancelled"}, delay=0.5)
    assert (await task.cancel()).state == "cancelled"
    assert [each for each in await fabric.schedules.list(agent.name) if each.name == task.id] == []
    await (await client.start("echo", {"value": "done"}, delay=1.0)).result(timeout=10)
    assert ran == ["done"]


# For later, and too late


async def test_a_task_for_later_is_begun_at_its_time_and_not_before(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    @agent.tool
    async def now() -> float:
        return time.time()

    await serve(agent)
    client, begun = fabric.agent(agent.name), time.time()
    at = datetime.fromtimestamp(begun + 0.7, UTC)
    tasks = [
        await client.start("now", delay=0.7),
        await client.start("now", at=at),
        await client.start("now", at=begun),
    ]
    assert (await tasks[0].status()).state == "queued"
    delayed, timed, past = await asyncio.gather(*(task.result(timeout=10) for task in tasks))
    assert delayed >= begun + 0.7 <= timed
    assert past < delayed


async def test_a_task_that_expired_is_not_begun_and_says_so(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    client = fabric.agent(agent.name)
    task = await client.start("echo", {"value": "late"}, expires=0.01)
    kept = await client.start("echo", {"value": "in time"}, expires=60)
    await asyncio.sleep(0.02)
    await serve(agent)
    assert await kept.result(timeout=10) == "in time"
    with pytest.raises(errors.TaskExpired):
        await task.result(timeout=10)
    assert ran == ["in time"]


async def test_a_task_that_no_worker_comes_for_expires(
    fabric: Fabric, server: PrivateNats, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "_LOOK_SECONDS", 0.05)
    task = await fabric.agent(agent.name).start("echo", expires=0.05, key="k")
    with pytest.raises(errors.TaskExpired):
        await task.result(timeout=10)
    async with Fabric.connect(server.url) as other:
        assert (await other.agent(agent.name).task(task.id).status()).state == "expired"
    assert (await task.cancel()).state == "expired"


async def test_a_task_begun_in_time_is_not_called_expired(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_TICK", 60.0)  # nothing is on record but what has to be
    gate = Gate(agent)
    await serve(agent)
    task = await fabric.agent(agent.name).start("hold", {"n": 3}, expires=0.5)
    await gate.holds()
    await asyncio.sleep(0.5)
    assert (await task.status()).state == "running"
    gate.go.set()
    assert await task.result(timeout=10) == 3


# One task for each key


async def test_whoever_starts_a_key_again_joins_its_task(
    fabric: Fabric, server: PrivateNats, serve: Serve, agent: Agent
) -> None:
    gate = Gate(agent)
    client = fabric.agent(agent.name)
    task = await client.start("hold", {"n": 1}, key="k")
    before = await client.start("hold", {"n": 1}, key="k")
    await serve(agent)
    await gate.holds()
    async with Fabric.connect(server.url) as other:
        running = await other.agent(agent.name).start("hold", {"n": 1}, key="k")
        gate.go.set()
        assert await task.result(timeout=10) == 1
        after = await other.agent(agent.name).start("hold", {"n": 1}, key="k", priority="critical")
        assert [await each.result(timeout=10) for each in (before, running, after)] == [1, 1, 1]
    assert {task.id, before.id, running.id, after.id} == {task.id}
    assert (task.joined, before.joined, running.joined, after.joined) == (False, True, True, True)
    assert len(gate.begun) == 1


async def test_a_key_is_joined_when_the_server_has_forgotten_the_message(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    # As two minutes after the first start: a message without its id, which nobody knows for a repetition.
    await serve(agent)
    client = fabric.agent(agent.name)
    start = client.plan("echo", {"value": 1}, key="k")
    await (await client.start("echo", {"value": 1}, key="k")).result(timeout=10)
    message = start.message()

    async def empty() -> bool:
        return await fabric.jetstream.last(TASKS, message.subject) is None

    async with asyncio.timeout(10):  # its acknowledgement is on its way
        while not await empty():  # noqa: ASYNC110 - what is waited for here sets no event
            await asyncio.sleep(0.01)
    await fabric.jetstream.store(message.subject, message.body, {"Fab-Key": "k"})
    await (await client.start("echo", {"value": 2})).result(timeout=10)
    assert ran == [1, 2]


async def test_one_task_in_two_classes_is_one_task(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back, give_back = asyncio.Event(), doing.Doer.give_back

    async def see(*each: Any) -> None:
        await give_back(*each)
        given_back.set()

    monkeypatch.setattr(taking, "_GIVE_BACK_SECONDS", 0.0)
    monkeypatch.setattr(doing.Doer, "give_back", see)
    gate = Gate(agent)
    await serve(agent, tasks=1)
    client = fabric.agent(agent.name)
    task = await client.start("hold", {"n": 1}, key="k", priority="low")
    await gate.holds()
    again = client.plan("hold", {"n": 2}, key="k", priority="critical").message()
    await fabric.jetstream.store(again.subject, again.body, {"Fab-Key": "k"})  # two minutes later, so to speak
    await given_back.wait()  # since the worker has no free hand
    gate.go.set()
    assert await task.result(timeout=10) == 1
    await (await client.start("hold")).result(timeout=10)
    assert len(gate.begun) == 2
    assert (await task.status()).attempt == 1


async def test_each_principal_has_keys_of_its_own(fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    tasks: list[Task] = []
    for principal in ("ann", "bob", None):
        token = current_scope.set(Scope(time.time() + 5, principal=principal))
        tasks.append(await client.start("echo", {"value": principal}, key="k"))
        current_scope.reset(token)
    assert [await task.result(timeout=10) for task in tasks] == ["ann", "bob", None]


async def test_what_a_task_starts_is_started_once(fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]) -> None:
    @agent.tool(task=Policy(attempts=3))
    async def lead(context: Context) -> list[str]:
        client = context.fabric.agent(agent.name)
        started = [await client.start("echo", {"value": value}) for value in ("x", "x", "y")]
        assert context.task is not None
        if context.task.attempt < 3:
            raise Retry(after=0)
        return [task.id for task in started]

    await serve(agent)
    client = fabric.agent(agent.name)
    first, second = await client.start("lead"), await client.start("lead")
    ids = [*await first.result(timeout=10), *await second.result(timeout=10)]
    await asyncio.gather(*(client.task(each).result(timeout=10) for each in ids))
    assert len(set(ids)) == 6
    assert sorted(ran) == ["x", "x", "x", "x", "y", "y"]


# Several at once


async def test_a_batch_is_accepted_as_a_whole(fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    tasks = await fabric.start_all([client.plan("echo", {"value": n}) for n in range(1000)])
    assert [await task.result(timeout=20) for task in tasks] == list(range(1000))
    assert sorted(ran) == list(range(1000))


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "done"])
async def test_a_batch_with_one_that_was_started_before_is_refused_as_a_whole(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], waits: bool
) -> None:
    client = fabric.agent(agent.name)
    first = await client.start("echo", {"value": "first"}, key="k")
    if not waits:
        await serve(agent)
        await first.result(timeout=10)
    plans = [client.plan("echo", {"value": n}) for n in range(3)]
    with pytest.raises(errors.InvalidParams, match="none was started now"):
        await fabric.start_all([*plans, client.plan("echo", {"value": "first"}, key="k")])
    for plan in plans:
        with pytest.raises(errors.UnknownTask):
            await client.task(plan.id).status()
    assert ran == ([] if waits else ["first"])


async def test_a_batch_that_cannot_be_is_refused(fabric: Fabric, agent: Agent) -> None:
    client = fabric.agent(agent.name)
    for plans in ([], [client.plan("echo") for _ in range(1001)]):
        with pytest.raises(errors.InvalidParams, match="1 to 1000"):
            await fabric.start_all(plans)
    with pytest.raises(errors.InvalidParams, match="for later"):
        await fabric.start_all([client.plan("echo", delay=60)])


# Without JetStream


async def test_without_jetstream_a_worker_serves_calls_and_says_once_what_is_missing(
    agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(taking, "_WITHOUT_SECONDS", 0.01)
    monkeypatch.setattr(api, "_WITHOUT_JETSTREAM", 0.05)
    opened: list[None] = []
    really_open = taking.TaskTaker._open  # pyright: ignore[reportPrivateUsage]

    async def count_and_open(taker: taking.TaskTaker) -> None:
        opened.append(None)
        await really_open(taker)

    monkeypatch.setattr(taking.TaskTaker, "_open", count_and_open)
    with private_nats() as server, caplog.at_level(logging.WARNING):
        transport = await NatsTransport.connect(server.url)
        worker = Worker(transport, agent, limits=Limits(tasks=2))
        await worker.start()
        async with Fabric.connect(server.url) as fabric:
            client = fabric.agent(agent.name)
            assert await client.call("echo", {"value": 1}) == 1
            await eventually(lambda: len(opened) > 2, what="a third look for JetStream")
            with pytest.raises(errors.TransportUnavailable, match="needs a NATS server with JetStream"):
                await client.start("echo")
        await worker.drain(0)
        await transport.close()
    said = [record.getMessage() for record in caplog.records if "takes no tasks" in record.getMessage()]
    assert len(said) == 1, said


async def test_within_one_process_durable_work_is_refused_in_words(
    agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_WITHOUT_JETSTREAM", 0.05)
    transport = MemoryTransport()
    worker = Worker(transport, agent)
    await worker.start()
    async with Fabric.over(transport) as fabric:
        client = fabric.agent(agent.name)
        assert await client.call("echo", {"value": 1}) == 1
        for refused in (client.start("echo"), client.start("echo", delay=1), client.task("x").status()):
            with pytest.raises(errors.TransportUnavailable, match="needs a NATS server with JetStream"):
                await refused
    await worker.drain(0)
