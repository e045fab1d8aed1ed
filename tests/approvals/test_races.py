"""Answers that meet, and crashes between two writes: a question is decided once, and what follows is done.

Proves: GW-3, SE-2
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from gateway.client import Json
from support.durable import KEEPING
from support.events import take
from support.nats_server import private_nats
from support.waiting import Ear, eventually, until

from approvals.fabric_of_shops import TASKS, Person, Shops, shops
from fabric.approvals.model import Answer, Approval, question
from fabric.approvals.store import WAITING
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import InvalidParams, TaskCancelled, UnknownName, UnknownTask
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.patterns.start import Start


@pytest.fixture
async def clerk(there: Shops) -> Person:
    return (await there.person(f"cleo-{uuid4().hex[:6]}", "clerk")).able(TASKS)


@pytest.fixture
async def managers(there: Shops) -> list[Person]:
    return [await there.person(f"m-{uuid4().hex[:6]}", "manager") for _ in range(2)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks after questions looks at once."""
    monkeypatch.setattr("fabric.approvals.service._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("fabric.approvals.service._LEFT_SECONDS", 0.0)


async def test_two_that_grant_at_once_grant_once(there: Shops, clerk: Person, managers: list[Person]) -> None:
    task = (await clerk.does("shop_refund", amount=600))["result"]
    (asked,) = await there.waiting()
    both: list[Json] = list(await asyncio.gather(*(each.value("approvals_grant", id=asked) for each in managers)))
    assert {each["state"] for each in both} == {"granted"}
    assert len({each["by"] for each in both}) == 1
    await clerk.until(task["taskId"], "completed")
    assert len(there.done) == 1


async def test_of_grant_and_refusal_one_holds(there: Shops, clerk: Person, managers: list[Person]) -> None:
    granted = 0
    for amount in range(700, 708):
        task = (await clerk.does("shop_refund", amount=amount))["result"]
        (asked,) = await there.waiting()
        said = await asyncio.gather(
            managers[0].does("approvals_grant", id=asked), managers[1].does("approvals_refuse", id=asked)
        )
        state = (await there.approvals.show(asked)).state
        assert ["result" in said[0], "result" in said[1]] == [state == "granted", state == "refused"]
        end = await clerk.until(task["taskId"], "completed", "failed")
        assert (end["status"] == "completed") is (state == "granted")
        granted += state == "granted"
    assert len(there.done) == granted


async def test_answers_that_read_the_same_row_do_not_both_hold(there: Shops) -> None:
    for _ in range(5):
        _, asked = await put(there)
        answers: list[Answer] = ["granted", "refused", "granted", "refused"]
        said = await asyncio.gather(
            *(there.approvals.answer(asked.id, answer, "mia") for answer in answers), return_exceptions=True
        )
        state = (await there.approvals.show(asked.id)).state
        held = [answer for answer, outcome in zip(answers, said, strict=True) if isinstance(outcome, Approval)]
        assert held == [state, state]
        assert sum(isinstance(outcome, InvalidParams) for outcome in said) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("answer", "end"), [("granted", "completed"), ("refused", "failed")])
async def test_a_decision_that_a_crash_left_half_done_is_finished(
    there: Shops, clerk: Person, answer: str, end: str
) -> None:
    task = (await clerk.does("shop_refund", amount=800))["result"]
    (asked,) = await there.waiting()
    await there.approvals.answer(asked, answer, "mia")  # pyright: ignore[reportArgumentType]
    await clerk.until(task["taskId"], end)
    await until(lambda: there.approvals.show(asked), lambda approval: approval.settled)


@pytest.mark.usefixtures("quick")
async def test_a_task_that_is_held_only_after_the_answer_goes_on(there: Shops) -> None:
    fabric, (start, asked) = there.fabric, await put(there)
    decided = await there.approvals.answer(asked.id, "granted", "mia")
    with pytest.raises(UnknownTask):
        await there.approvals.settle(decided)
    assert await fabric.tasks.hold(start, "it waits")
    assert (await fabric.tasks.wait("shop", start.id, timeout=10)).state == "completed"


async def test_a_question_whose_task_never_came_is_settled_in_the_end(
    there: Shops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric.approvals.store._ON_THE_WAY", 0.0)
    _, asked = await put(there)
    decided = await there.approvals.answer(asked.id, "refused", "mia")
    assert (await there.approvals.settle(decided)).settled


async def put(there: Shops) -> tuple[Start, Approval]:
    """A question whose task is not held yet."""
    params = Body({"name": "refund", "arguments": {"amount": 900}})
    start = Start(agent="shop", params=params, scope=scope_for(10.0, principal="ann"))
    rule = there.rule("large")
    asked = question(rule, uuid4().hex, ("shop", "tools/call", "refund"), {}, time.time(), task=start.id)
    return start, await there.approvals.put(asked)


async def test_subscribers_hear_of_each_step_once(there: Shops, clerk: Person, managers: list[Person]) -> None:
    ear = Ear()
    await there.fabric.transport.subscribe(subjects.changed("approvals"), ear)
    async with there.fabric.subscribe("approvals.*") as events:
        for _ in range(2):
            await clerk.does("shop_refund", amount=1200)
        (asked,) = await there.waiting()
        for manager in managers:
            await manager.value("approvals_grant", id=asked)
        heard = await take(events, 2)
    assert [event.type for event in heard] == ["approvals.asked", "approvals.granted"]
    assert [event.data["id"] for event in heard] == [asked, asked]
    assert "arguments" not in heard[0].data
    assert ear.values.count({"resource": WAITING}) >= 2


async def test_the_resource_shows_what_waits(there: Shops, clerk: Person, managers: list[Person]) -> None:
    await clerk.does("shop_refund", amount=1300)
    (asked,) = await there.waiting()
    read = await managers[0].said("resources/read", {"uri": "approvals://approvals/waiting"})
    assert asked in read["result"]["contents"][0]["text"]
    await managers[0].value("approvals_refuse", id=asked)


async def test_nobody_fills_the_table(there: Shops, clerk: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabric.gateway.approving._MOST_WAITING", 2)
    for amount in (1400, 1401):
        assert "result" in await clerk.does("shop_refund", amount=amount)
    ids = await there.waiting(2)
    said = await clerk.does("shop_refund", amount=1402)
    assert said["error"]["code"] == 4290
    assert "result" in await clerk.does("shop_refund", amount=1401), "it joins"
    for each in ids:
        await there.approvals.settle(await there.approvals.answer(each, "refused", "mia"))


async def test_ids_that_are_none(there: Shops, managers: list[Person]) -> None:
    for wrong in ("", "x", "a.b-c", ">", "-", "ffff-1"):
        with pytest.raises((InvalidParams, UnknownName), match="fabric approvals list"):
            await there.approvals.show(wrong)
        assert "error" in await managers[0].does("approvals_grant", id=wrong)


async def test_a_call_waits_no_longer_than_it_may_and_the_next_goes_on_waiting(tmp_path: Path) -> None:
    with private_nats(KEEPING) as nats:
        async with shops(nats.url, tmp_path, call_timeout=0.3) as there:
            clerk = await there.person("cleo", "clerk")
            manager = await there.person("mia", "manager")
            pending = (await clerk.does("shop_refund", amount=500))["error"]
            (asked,) = await there.waiting()
            assert pending["code"] == 4090
            assert (pending["data"]["approval"], pending["data"]["approvers"]) == (asked, ["manager"])
            again = asyncio.create_task(clerk.does("shop_refund", amount=500))
            await manager.value("approvals_grant", id=asked)
            assert (await again)["result"]["structuredContent"] == {"result": "500 to bob"}


# tasks that are held


async def held(fabric: Fabric, amount: int, **more: object) -> Start:
    params = Body({"name": "refund", "arguments": {"amount": amount, **more}})
    start = Start(agent="shop", params=params, scope=scope_for(10.0, principal="ann"))
    assert await fabric.tasks.hold(start, "it waits for somebody")
    return start


async def test_a_held_task_begins_when_it_is_released_and_once(there: Shops) -> None:
    tasks = there.fabric.tasks
    start = await held(there.fabric, 1)
    record = await tasks.read("shop", start.id)
    assert (record.state, record.reason, record.principal) == ("held", "it waits for somebody", "ann")
    assert (await tasks.answer("shop", start.id, {"1.approval": 1, "approval": 1})).state == "held"
    assert not await tasks.hold(start, "again")
    await asyncio.gather(*(tasks.release("shop", start.id) for _ in range(3)))
    assert (await tasks.wait("shop", start.id, timeout=10)).state == "completed"
    assert (await tasks.release("shop", start.id)).state == "completed"
    assert there.done == [("refund", 1, "ann")]


async def test_a_task_that_asks_something_is_not_released(there: Shops) -> None:
    task = await there.fabric.agent("shop").start("chat")
    await until(task.status, lambda record: record.state == "input_required")
    assert (await there.fabric.tasks.release("shop", task.id)).state == "input_required"
    await there.fabric.tasks.answer("shop", task.id, {"1.1": {"action": "accept", "content": {"amount": 9}}})
    assert await task.result(timeout=10) == 9


async def test_a_release_that_was_cut_off_between_its_two_writes_is_finished(
    there: Shops, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = there.fabric.tasks
    start = await held(there.fabric, 2)

    async def cut_off(*_: object) -> bool:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "_write", cut_off)
        with pytest.raises(ConnectionError):
            await tasks.release("shop", start.id)
    await tasks.release("shop", start.id)
    assert (await tasks.wait("shop", start.id, timeout=10)).state == "completed"
    assert there.done == [("refund", 2, "ann")]


async def test_a_held_task_may_be_large(there: Shops) -> None:
    start = await held(there.fabric, 3, to="x" * 2_000_000)
    assert start.claim is not None
    await there.fabric.tasks.release("shop", start.id)
    await eventually(lambda: there.done == [("refund", 3, "ann")], what="the large refund")


async def test_what_is_nested_too_deeply_to_be_held_asks_nobody(there: Shops, clerk: Person) -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    said = await clerk.does("shop_brief", more=deep)
    assert said["error"]["code"] == -32602
    assert "nested too deeply" in said["error"]["message"]
    assert await there.waiting(0) == []


async def test_a_held_task_that_is_refused_says_why(there: Shops) -> None:
    start = await held(there.fabric, 4)
    task = there.fabric.agent("shop").task(start.id)
    await there.fabric.tasks.cancel("shop", start.id, reason="mia refused this")
    with pytest.raises(TaskCancelled, match="mia refused this"):
        await task.result(timeout=5)
    assert (await there.fabric.tasks.release("shop", start.id)).state == "cancelled"
    assert there.done == []
