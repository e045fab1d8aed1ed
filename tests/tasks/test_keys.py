"""One key, one effect, where it waits in two places, is repeated late or with other arguments, or only its answer was
lost. Proves: MB-2."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy, Retry
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts import task as contract
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Effects, Scope, current_effects
from fabric_sdk.contracts.streams import LATER, TASKS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import Delivery, JetStream
from fabric_sdk.patterns.start import Start
from fabric_sdk.patterns.task import Tasks


@pytest.fixture
def ran(agent: Agent) -> list[Any]:
    """What the tool `echo` was run with."""
    ran: list[Any] = []

    @agent.tool
    async def echo(value: Any = None) -> Any:
        ran.append(value)
        return value

    return ran


async def waiting(fabric: Fabric, agent: Agent) -> list[str]:
    """The streams in which something of the agent's tasks waits."""
    found: list[str] = []
    for stream, subject in (
        (TASKS, subjects.task(agent.name, "*", "*")),
        (LATER, subjects.later(agent.name, "once", "*")),
    ):
        if await fabric.jetstream.last(stream, subject) is not None:
            found.append(stream.name)
    return found


@pytest.mark.parametrize("first", ["later", "at once"])
async def test_started_for_later_and_at_once_it_is_the_one_that_came_first(
    fabric: Fabric, agent: Agent, ran: list[Any], first: str
) -> None:
    client = fabric.agent(agent.name)
    hows: list[dict[str, Any]] = [{"delay": 60}, {}]
    tasks = [
        await client.start("echo", {"value": 1}, key="k", **how)
        for how in (hows if first == "later" else reversed(hows))
    ]
    assert [task.joined for task in tasks] == [False, True]
    assert await waiting(fabric, agent) == [LATER.name if first == "later" else TASKS.name]


async def test_started_for_later_it_joins_what_has_ended(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    await (await client.start("echo", {"value": 1}, key="k")).result(timeout=10)
    again = await client.start("echo", {"value": 1}, key="k", delay=60)
    assert again.joined
    assert await again.result(timeout=10) == 1
    assert await waiting(fabric, agent) == []


STANDS: dict[str, dict[str, Any]] = {"waits": {}, "for later": {"delay": 60}, "has ended": {}, "in pieces": {}}


@pytest.mark.parametrize("stands", STANDS)
async def test_a_key_is_refused_with_other_arguments_and_joins_with_the_same(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], stands: str
) -> None:
    client = fabric.agent(agent.name)
    much = "x" * (fabric.transport.max_message if stands == "in pieces" else 1)
    given = {"value": {"a": 1, "b": [None, much]}}
    task = await client.start("echo", given, key="k", **STANDS[stands])
    if stands == "has ended":
        await serve(agent)
        await task.result(timeout=10)
    for other in ({"value": {"a": 1, "b": [much, None]}}, {}, None):
        for delay in (0.0, 60.0):
            with pytest.raises(errors.KeyReused, match=f"the key 'k' names task {task.id} of agent") as refused:
                await client.start("echo", other, key="k", delay=delay)
            assert refused.value.fix
        with pytest.raises(errors.KeyReused):
            await fabric.start_all([client.plan("echo", other, key="k")])
    again = await client.start("echo", {"value": {"b": [None, much], "a": 1}}, key="k")
    assert (again.joined, again.id) == (True, task.id)
    await task.cancel()  # and what was kept in pieces goes with it
    assert len(ran) == (stands == "has ended")


async def test_a_key_keeps_its_arguments_when_its_task_was_tried_again_or_became_due(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    @agent.tool(task=Policy(attempts=1))
    async def fail(n: int) -> None:
        raise ValueError(str(n))

    client = fabric.agent(agent.name)
    task = await client.start("fail", {"n": 1}, key="k", delay=0.1)
    await serve(agent)
    for _ in range(2):
        with pytest.raises(errors.TaskDead):
            await task.result(timeout=10)
        with pytest.raises(errors.KeyReused):
            await client.start("fail", {"n": 2}, key="k")
        assert (await client.start("fail", {"n": 1}, key="k")).joined
        assert await fabric.dead.redrive(await fabric.dead.show(task.id))
    # what waits to be tried again says so too, whether or not a worker has taken it
    with pytest.raises(errors.KeyReused):
        await client.start("fail", {"n": 2}, key="k")


@pytest.mark.parametrize("delay", [0.0, 60.0], ids=["at once", "later"])
async def test_of_two_that_race_with_other_arguments_one_is_refused(
    fabric: Fabric, agent: Agent, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    looked: list[Any] = []
    really = Tasks._is_known  # pyright: ignore[reportPrivateUsage]

    async def look(self: Tasks, start: Any) -> bool:
        looked.append(start)
        return len(looked) > 2 and await really(self, start)  # each looked before the other was stored

    monkeypatch.setattr(Tasks, "_is_known", look)
    client = fabric.agent(agent.name)
    await client.start("echo", {"value": 1}, key="k")
    with pytest.raises(errors.KeyReused):
        await client.start("echo", {"value": 2}, key="k", delay=delay)
    assert await waiting(fabric, agent) == [TASKS.name]


@pytest.mark.parametrize("ended", [True, False], ids=["has ended", "waits"])
async def test_what_a_version_started_that_did_not_compare_arguments_is_joined_whatever_they_are(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], ended: bool
) -> None:
    client = fabric.agent(agent.name)
    plan = client.plan("echo", {"value": 1}, key="k")
    plan.digest = None
    await fabric.tasks.start(plan)
    if ended:
        await serve(agent)
        await client.task(plan.id).result(timeout=10)
    again = await client.start("echo", {"value": 2}, key="k")
    assert (again.joined, again.id) == (True, plan.id)


def test_arguments_that_can_be_read_and_not_written_again_are_refused_with_a_key() -> None:
    encoded = b'{"name":"echo","arguments":{"value":' + b"[" * 300 + b"]" * 300 + b"}}"
    with pytest.raises(errors.InvalidParams, match="nested too deeply"):
        Start(agent="a", params=Body(encoded=encoded), scope=Scope(0.0), key="k")
    assert Start(agent="a", params=Body(encoded=encoded), scope=Scope(0.0)).digest is None


async def test_keys_of_tasks_that_a_task_starts_by_itself_need_no_digest(agent: Agent) -> None:
    start = Start(agent=agent.name, params=Body({"name": "echo"}), scope=Scope(0.0))
    assert Header.DIGEST not in start.headers()
    token = current_effects.set(Effects("t"))
    try:
        assert Header.DIGEST not in Start(agent="a", params=Body({"name": "echo"}), scope=Scope(0.0)).headers()
    finally:
        current_effects.reset(token)


async def test_of_two_that_race_the_one_for_later_yields(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def see_nothing(*_: Any) -> bool:
        return False

    client = fabric.agent(agent.name)
    monkeypatch.setattr(Tasks, "_is_known", see_nothing)  # each looked before the other was stored
    later = await client.start("echo", {"value": 1}, key="a", delay=60)
    at_once = await client.start("echo", {"value": 1}, key="a")
    assert (later.joined, at_once.joined) == (False, False)
    assert await waiting(fabric, agent) == [TASKS.name]
    await serve(agent)
    await at_once.result(timeout=10)
    late = await client.start("echo", {"value": 1}, key="a", delay=60)
    assert late.joined
    assert await waiting(fabric, agent) == []
    assert ran == [1]


async def test_a_batch_that_is_repeated_joins_what_it_started(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    client = fabric.agent(agent.name)

    async def start() -> list[Any]:
        return await fabric.start_all([client.plan("echo", {"value": n}, key=f"k{n}") for n in range(5)])

    first, again = await start(), await start()
    await serve(agent)
    assert [await task.result(timeout=10) for task in again] == list(range(5))
    after = await start()
    assert [[task.id for task in tasks] for tasks in (again, after)] == [[task.id for task in first]] * 2
    assert [{task.joined for task in tasks} for tasks in (first, again, after)] == [{False}, {True}, {True}]
    assert sorted(ran) == list(range(5))


async def test_a_task_that_is_tried_again_starts_its_batch_once(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    @agent.tool(task=Policy(attempts=3))
    async def lead(context: Context) -> list[str]:
        client = context.fabric.agent(agent.name)
        started = await context.fabric.start_all([client.plan("echo", {"value": n}) for n in (1, 1, 2)])
        assert context.task is not None
        if context.task.attempt < 3:
            raise Retry(after=0)
        return [task.id for task in started]

    await serve(agent)
    client = fabric.agent(agent.name)
    ids = await (await client.start("lead")).result(timeout=10)
    await asyncio.gather(*(client.task(each).result(timeout=10) for each in ids))
    assert sorted(ran) == [1, 1, 2]


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "without keys"])
async def test_a_batch_of_which_only_the_answer_was_lost_was_started(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], keyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Message] = []
    really_ask = JetStream.ask

    async def lose_one(self: JetStream, message: Message, *timeout: float) -> Message:
        answer = await really_ask(self, message, *timeout)
        if Header.BATCH_COMMIT in (message.headers or {}) and not lost:
            lost.append(answer)
            raise errors.TransportUnavailable("lost")
        return answer

    monkeypatch.setattr(JetStream, "ask", lose_one)
    await serve(agent)
    client = fabric.agent(agent.name)
    plans = [client.plan("echo", {"value": n}, **({"key": f"k{n}"} if keyed else {})) for n in range(3)]
    tasks = await fabric.start_all(plans)
    assert [await task.result(timeout=10) for task in tasks] == [0, 1, 2]
    assert sorted(ran) == [0, 1, 2]
    assert lost


async def test_what_a_full_queue_refused_a_task_it_starts_under_the_same_key_later(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    really_store = JetStream.store

    async def refuse_once(self: JetStream, subject: str, body: Body, *rest: Any, **how: Any) -> Any:
        if b'"once"' in body.encoded() and not refused:
            refused.append(subject)
            raise errors.QueueFull("the queue takes no more")
        return await really_store(self, subject, body, *rest, **how)

    @agent.tool(task=Policy(attempts=2))
    async def lead(context: Context) -> list[str]:
        client = context.fabric.agent(agent.name)
        try:
            task = await client.start("echo", {"value": "once"})
        except errors.QueueFull:
            task = await client.start("echo", {"value": "once"})
        assert context.task is not None
        if context.task.attempt == 1:
            raise Retry(after=0)
        return [task.id]

    monkeypatch.setattr(JetStream, "store", refuse_once)
    await serve(agent)
    client = fabric.agent(agent.name)
    (started,) = await (await client.start("lead")).result(timeout=10)
    await client.task(started).result(timeout=10)
    assert ran == ["once"]
    assert refused


async def test_an_end_outlives_its_message_however_short_it_is_to_be_kept(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = asyncio.Event()
    really_ack = Delivery.ack

    async def lose_the_first(self: Delivery) -> None:
        if self.attempt == 1:
            await self.nak(1.5)  # as if its worker had died between its last write and its acknowledgement
            return
        await really_ack(self)
        again.set()

    monkeypatch.setattr(Delivery, "ack", lose_the_first)
    await serve(agent)
    task = await fabric.agent(agent.name).start("echo", {"value": 1}, keep=1)
    await asyncio.wait_for(again.wait(), 10)
    assert (await task.status()).state == "completed"
    assert ran == [1]


def test_how_long_a_record_lasts() -> None:
    lasts = {
        state: contract.Record("t", "a", state=state, keep=7200).lasts
        for state in ("queued", "running", "input_required", "completed", "dead")
    }
    assert lasts == {
        "queued": contract.LONGEST_UNENDED,
        "running": contract.LONGEST_UNENDED,
        "input_required": contract.LONGEST_KEPT,
        "completed": 7200,
        "dead": contract.LONGEST_UNENDED,
    }


async def test_only_what_was_cancelled_is_ended(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @agent.tool
    async def hold() -> str:
        begun.set()
        await go.wait()
        return "done"

    worker = await serve(agent)
    task = await fabric.agent(agent.name).start("hold")
    await begun.wait()
    await fabric.transport.publish(Message(subjects.control(agent.name), Body({"task": task.id})))
    await fabric.agent(agent.name).describe()  # by now the worker has heard it
    await asyncio.sleep(0)
    await asyncio.gather(*worker_tasks(worker))
    go.set()
    assert await task.result(timeout=10) == "done"


def worker_tasks(worker: Any) -> list[asyncio.Task[Any]]:
    """What the worker is doing beside its tasks."""
    return [*worker._taker._tasks]  # pyright: ignore[reportPrivateUsage]
