"""A tool that fails, hangs, asks to be tried again or kills its process. Proves: MB-2, MB-5, MB-6."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from support.waiting import eventually
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy, Reject, Retry, tuning
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.task import Record
from fabric_sdk.jetstream import Delivery, Pull
from fabric_sdk.patterns.start import Start

QUICK = Policy(attempts=3, first_wait=0.01)


async def died(fabric: Fabric, agent: Agent, tool: str, arguments: dict[str, Any] | None = None) -> Record:
    """The record of a task that fails for good."""
    task = await fabric.agent(agent.name).start(tool, arguments)
    with pytest.raises(errors.TaskDead) as dead:
        await task.result(timeout=20)
    record = await task.status()
    assert (record.state, dead.value.data) == ("dead", record.errors)
    return record


def told(record: Record) -> list[tuple[int, str]]:
    """Which attempts are told to have failed, and how."""
    return [(each["attempt"], each["error"]) for each in record.errors]


async def test_a_tool_is_tried_as_often_as_its_policy_says(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    at: list[float] = []

    @agent.tool(task=Policy(attempts=3, first_wait=0.1))
    async def fail() -> None:
        at.append(time.monotonic())
        raise OSError("no disk")

    worker = await serve(agent)
    record = await died(fabric, agent, "fail")
    assert told(record) == [(n, "OSError: no disk") for n in (1, 2, 3)]
    assert {each["instance"] for each in record.errors} == {worker.instance}
    assert at[1] - at[0] >= 0.1
    assert at[2] - at[1] >= 0.2
    assert worker.served == 0


async def test_only_named_errors_are_tried_again(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool(task=Policy(attempts=3, first_wait=0.01, retry_on=("LookupError",)))
    async def fail(context: Context) -> None:
        assert context.task is not None
        raise KeyError("x") if context.task.attempt == 1 else ValueError("y")

    await serve(agent)
    assert told(await died(fabric, agent, "fail")) == [(1, "KeyError: 'x'"), (2, "ValueError: y")]


@pytest.mark.parametrize("named", ["AgentUnavailable", "TransportUnavailable", "Overloaded"])
async def test_a_call_that_fails_within_a_task_is_tried_again_under_its_own_name(
    fabric: Fabric, serve: Serve, agent: Agent, named: str
) -> None:
    kinds = {kind.__name__: kind for kind in (errors.TransportUnavailable, errors.Overloaded)}

    @agent.tool(task=Policy(attempts=2, first_wait=0.01, retry_on=(named,)))
    async def ask(context: Context) -> None:
        if named in kinds:
            raise kinds[named]
        await context.fabric.agent("nobody").call("anything", timeout=1)

    await serve(agent)
    record = await died(fabric, agent, "ask")
    assert [attempt for attempt, _ in told(record)] == [1, 2]
    assert {each["code"] for each in record.errors} == {getattr(errors, named).code}


async def test_a_call_that_fails_within_a_task_for_another_reason_is_not_tried_again(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    @agent.tool(task=Policy(attempts=2, first_wait=0.01, retry_on=("TransportUnavailable",)))
    async def ask(context: Context) -> None:
        await context.fabric.agent("nobody").call("anything", timeout=1)

    await serve(agent)
    ((attempt, said),) = told(await died(fabric, agent, "ask"))
    assert (attempt, "no instance of agent 'nobody'" in said) == (1, True)


async def test_a_tool_asks_to_be_tried_at_once_or_never_again(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool(task=Policy(attempts=9, first_wait=60))
    async def fail(context: Context) -> None:
        assert context.task is not None
        raise Retry("not yet", after=0) if context.task.attempt < 4 else Reject("never")

    await serve(agent)
    assert told(await died(fabric, agent, "fail")) == [*((n, "not yet") for n in (1, 2, 3)), (4, "never")]


async def test_an_attempt_takes_no_longer_than_its_time(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool(task=Policy(attempts=2, first_wait=0.01, timeout=0.1))
    async def hang() -> None:
        await asyncio.Event().wait()

    await serve(agent)
    assert told(await died(fabric, agent, "hang")) == [
        (n, "timeout: the attempt took longer than 0.1 s") for n in (1, 2)
    ]


async def test_an_attempt_that_is_silent_for_too_long_is_ended_and_one_that_speaks_is_not(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    @agent.tool(task=Policy(attempts=1, silence=0.8))
    async def work(context: Context, speaks: bool) -> str:
        for n in range(12):
            await asyncio.sleep(0.1)
            if speaks:
                await (context.heartbeat() if n % 2 else context.progress(n))
        return "done"

    await serve(agent)
    client = fabric.agent(agent.name)
    speaking = await client.start("work", {"speaks": True})
    assert told(await died(fabric, agent, "work", {"speaks": False})) == [
        (1, "timeout: the attempt was silent for 0.8 s")
    ]
    assert await speaking.result(timeout=10) == "done"


async def test_a_result_that_cannot_be_kept_ends_the_task_at_once(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool(task=QUICK)
    async def give() -> Any:
        return object()

    await serve(agent)
    record = await died(fabric, agent, "give")
    assert len(record.errors) == 1
    assert record.result is None
    assert "object" in record.errors[0]["error"]


@pytest.mark.parametrize("keep", ["checkpoint", "once"])
@pytest.mark.parametrize(
    ("made", "words"),
    [("object()", "only JSON values"), ("'x' * 1_000_000", "there is room for 983040")],
    ids=["no JSON", "too large"],
)
async def test_a_state_that_cannot_be_kept_ends_the_task_at_once(
    fabric: Fabric, serve: Serve, agent: Agent, keep: str, made: str, words: str
) -> None:
    @agent.tool(task=QUICK)
    async def save(context: Context) -> None:
        await context.checkpoint("before")
        if keep == "once":
            await context.once("step", lambda: eval(made))
        await context.checkpoint(eval(made))

    await serve(agent)
    record = await died(fabric, agent, "save")
    ((_, error),) = told(record)
    assert words in error
    assert (record.saved, record.steps) == (["before"], {})


async def test_a_task_with_much_to_say_still_ends(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool(task=Policy(attempts=12, first_wait=0, longest_wait=0))
    async def fail(context: Context, text: str) -> None:
        await context.checkpoint(text)
        raise ValueError("\N{SNOWMAN}" * 10_000)

    await serve(agent)
    record = await died(fabric, agent, "fail", {"text": "x" * 900_000})
    assert [attempt for attempt, _ in told(record)] == list(range(3, 13)), "the last ten"
    letter = await fabric.dead.show(record.id)
    assert len(letter.params["arguments"]["text"]) == 900_000


async def test_steps_and_state_are_there_for_the_next_attempt(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    done: list[str] = []

    @agent.tool(task=QUICK)
    async def work(context: Context) -> Any:
        assert context.task is not None
        before = context.saved

        async def pay() -> dict[str, int]:
            done.append("pay")
            return {"paid": 7}

        paid = await context.once("pay", pay)
        await context.once("count", lambda: done.append("count"))
        await context.checkpoint({"attempt": context.task.attempt})
        if context.task.attempt < 3:
            raise ValueError
        return [before, paid, context.task.token]

    await serve(agent)
    task = await fabric.agent(agent.name).start("work")
    before, paid, token = await task.result(timeout=10)
    assert (before, paid, done) == ({"attempt": 2}, {"paid": 7}, ["pay", "count"])
    record = await task.status()
    assert token & 0xFFFF == 3
    assert record.steps == {"pay": {"paid": 7}, "count": None}


async def test_an_attempt_ended_amid_a_write_is_an_attempt_that_failed(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    @agent.tool(task=Policy(attempts=3, first_wait=0.01, timeout=0.3))
    async def busy(context: Context) -> None:
        n = 0
        while True:  # some write is under way whenever it is ended
            n += 1
            await context.checkpoint(n)

    await serve(agent)
    assert told(await died(fabric, agent, "busy")) == [
        (n, "timeout: the attempt took longer than 0.3 s") for n in (1, 2, 3)
    ]


async def test_a_worker_that_leaves_gives_its_tasks_back_and_no_attempt_is_counted(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    begun: list[tuple[str, int]] = []
    go = asyncio.Event()

    @agent.tool(task=Policy(attempts=1))
    async def work(context: Context, n: int) -> int:
        assert context.task is not None
        begun.append((context.instance, context.task.attempt))
        await go.wait()
        return n

    first = await serve(agent, tasks=2)
    tasks = await fabric.start_all([fabric.agent(agent.name).plan("work", {"n": n}) for n in range(6)])
    await eventually(lambda: len(begun) == 2, what="two tasks at the first worker")
    await first.drain(0)
    second = await serve(agent)
    go.set()
    assert [await task.result(timeout=20) for task in tasks] == list(range(6))
    assert {attempt for _, attempt in begun} == {1}
    assert [instance for instance, _ in begun].count(second.instance) == 6
    records = [await task.status() for task in tasks]
    assert all(record.errors == [] and record.attempt == 1 for record in records)


async def test_a_worker_that_leaves_gives_back_what_is_done_once_only_if_it_was_not_begun(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    begun: list[int] = []

    @agent.tool
    async def work(n: int) -> int:
        begun.append(n)
        if n == 0:
            await asyncio.Event().wait()
        return n

    first = await serve(agent, tasks=1)
    starts = [
        Start(
            agent=agent.name,
            params=Body({"name": "work", "arguments": {"n": n}}),
            scope=scope_for(60.0),
            once=True,
        )
        for n in range(2)
    ]
    for start in starts:
        await fabric.tasks.start(start)
    await eventually(lambda: begun == [0], what="the first task at the worker")
    await first.drain(0)
    await serve(agent)
    cut, waited = [await fabric.tasks.wait(agent.name, start.id, timeout=20) for start in starts]
    assert begun == [0, 1]
    assert (waited.state, waited.attempt, waited.errors) == ("completed", 1, [])
    assert cut.state == "dead"
    assert [(each["attempt"], each["error"], each["code"]) for each in cut.errors] == [
        (1, "the worker was stopped before the attempt ended", errors.WorkerLost.code)
    ]


async def test_an_attempt_that_was_overtaken_changes_nothing(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker does that was frozen past its time, in one process: its extensions do not arrive."""

    async def lost(_delivery: Delivery) -> None: ...

    monkeypatch.setattr(Delivery, "extend", lost)
    monkeypatch.setenv(tuning.ACK_WAIT, "1")
    go, ends = asyncio.Event(), list[str]()

    @agent.tool(task=Policy(attempts=2))
    async def work(context: Context, key: str) -> list[Any]:
        assert context.task is not None
        if context.task.attempt == 1:
            try:
                await go.wait()
            except asyncio.CancelledError:
                ends.append(f"{key} was ended")
                raise
            try:
                await context.once("step", lambda: "the first's")
            except Exception as failure:
                ends.append(f"{key}: {type(failure).__name__}")
                raise
        return [context.task.attempt, context.task.token & 0xFFFF]

    await serve(agent)
    client = fabric.agent(agent.name)
    tasks = [await client.start("work", {"key": "plain"}), await client.start("work", {"key": "keyed"}, key="k")]
    assert [await task.result(timeout=20) for task in tasks] == [[2, 2], [2, 2]]
    go.set()
    await eventually(lambda: len(ends) == 2, what="the ends of the first attempts")
    for task in tasks:
        record = await task.status()
        assert (record.state, record.steps, told(record)) == (
            "completed",
            {},
            [(1, "its worker was lost; whether it finished is unknown")],
        )


async def test_a_task_that_takes_longer_than_a_sign_of_life_may_is_not_given_to_others(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tuning.ACK_WAIT, "1")
    begun: list[str] = []

    @agent.tool
    async def work(context: Context) -> str:
        begun.append(context.instance)
        await asyncio.sleep(2.2)
        return context.instance

    for _ in range(2):
        await serve(agent)
    assert [await (await fabric.agent(agent.name).start("work")).result(timeout=10)] == begun


@pytest.mark.parametrize("wrong", ["0", "x", "-1", "nan", "1e9"])
async def test_an_ack_wait_that_cannot_be_is_refused_in_words(
    fabric: Fabric, serve: Serve, agent: Agent, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tuning.ACK_WAIT, wrong)
    with pytest.raises(errors.ConfigurationError, match=tuning.ACK_WAIT):
        await serve(agent)


async def test_lanes_that_exist_keep_their_ack_wait_and_workers_keep_to_it(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Pull] = []

    async def open_and_see(pull: Pull) -> None:
        await really_open(pull)
        opened.append(pull)

    really_open = Pull.open
    monkeypatch.setattr(Pull, "open", open_and_see)
    monkeypatch.setenv(tuning.ACK_WAIT, "2.5")
    await serve(agent)
    await eventually(lambda: len(opened) == 5, what="the lanes")
    monkeypatch.delenv(tuning.ACK_WAIT)
    await serve(agent)
    await eventually(lambda: len(opened) == 10, what="the same lanes again")
    assert [pull.ack_wait for pull in opened] == [2.5] * 10


@pytest.mark.parametrize("nested", [errors.TaskCancelled, errors.WorkerLost], ids=lambda kind: kind.__name__)
async def test_what_befell_a_nested_task_is_a_failure_of_this_one(
    fabric: Fabric, serve: Serve, agent: Agent, nested: type[errors.FabricError]
) -> None:
    @agent.tool(task=QUICK)
    async def wait_for_another() -> None:
        raise nested("the other one")

    await serve(agent)
    record = await died(fabric, agent, "wait_for_another")
    assert [error for _, error in told(record)] == ["the other one"] * QUICK.attempts
