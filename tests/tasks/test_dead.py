"""Dead letters: listed, looked at, sent again, purged. Proves: MB-5."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy, Reject
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Scope, Trace, current_scope
from fabric_sdk.contracts.task import arguments_digest
from fabric_sdk.handle import Task
from fabric_sdk.patterns.dead import DeadLetter, Which

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Shop:
    """An agent whose `pay` fails until it is told that there is money."""

    def __init__(self, agent: Agent) -> None:
        self.money = False
        self.paid: list[str | None] = []

        @agent.tool(task=Policy(attempts=2, first_wait=0.01))
        async def pay(context: Context, amount: int = 1) -> str | None:
            await context.once("ask", lambda: "asked")
            if not self.money:
                raise ValueError(f"no money for {amount}")
            self.paid.append(context.key)
            return context.key

        @agent.tool
        async def refuse() -> None:
            raise Reject("closed")


@pytest.fixture
def shop(agent: Agent) -> Shop:
    return Shop(agent)


async def ended(task: Task) -> None:
    with pytest.raises(errors.TaskDead):
        await task.result(timeout=10)


async def found(fabric: Fabric, which: Which) -> list[DeadLetter]:
    return [letter async for letter in fabric.dead.find(which)]


async def test_a_letter_says_what_it_was_and_how_each_attempt_ended(
    fabric: Fabric, serve: Serve, agent: Agent, shop: Shop
) -> None:
    worker = await serve(agent)
    token = current_scope.set(Scope(time.time() + 5, "ann", Trace(TRACE)))
    task = await fabric.agent(agent.name).start("pay", {"amount": 7}, key="order-1", priority="high")
    current_scope.reset(token)
    await ended(task)
    letter = await fabric.dead.show(task.id)
    assert (letter.id, letter.agent, letter.tool, letter.priority) == (task.id, agent.name, "pay", "high")
    assert letter.params == {"name": "pay", "arguments": {"amount": 7}}
    digest = arguments_digest(Body(letter.params))
    kept = {"Fab-Key": "order-1", "Fab-Digest": digest, "Fab-Principal": "ann", "traceparent": TRACE}
    assert letter.headers == kept
    assert abs(letter.died - time.time()) < 5
    assert [(each["attempt"], each["error"]) for each in letter.errors] == [
        (n, "ValueError: no money for 7") for n in (1, 2)
    ]
    assert {(each["instance"], each["trace"]) for each in letter.errors} == {(worker.instance, TRACE)}
    assert all(letter.died - 5 < each["at"] <= letter.died for each in letter.errors)


async def test_letters_are_found_by_what_they_say(fabric: Fabric, serve: Serve, agent: Agent, shop: Shop) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    one, two = await client.start("pay", {"amount": 7}), await client.start("refuse")
    await asyncio.gather(ended(one), ended(two))
    mine = Which(agent=agent.name)
    assert {letter.id for letter in await found(fabric, mine)} == {one.id, two.id}
    assert {one.id, two.id} <= {letter.id for letter in await found(fabric, Which())}
    for which, expected in (
        (Which(agent=agent.name, tool="pay"), [one.id]),
        (Which(agent=agent.name, error="CLOSED"), [two.id]),
        (Which(agent=agent.name, error="no money for 7", tool="pay"), [one.id]),
        (Which(agent=agent.name, error="no money", tool="refuse"), []),
        (Which(agent=agent.name, before=time.time() - 60), []),
        (Which(agent="nobody"), []),
    ):
        assert [letter.id for letter in await found(fabric, which)] == expected, which


async def test_letters_are_found_by_where_they_lie(fabric: Fabric, serve: Serve, agent: Agent, shop: Shop) -> None:
    await serve(agent)
    for _ in range(3):
        await ended(await fabric.agent(agent.name).start("refuse"))
    mine = Which(agent=agent.name)
    letters = await found(fabric, mine)
    assert [letter.sequence for letter in letters] == sorted(letter.sequence for letter in letters)
    assert await found(fabric, replace(mine, through=letters[1].sequence)) == letters[:2]
    assert [letter async for letter in fabric.dead.find(mine, after=letters[0].sequence)] == letters[1:]


async def test_letters_that_come_meanwhile_are_not_found(
    fabric: Fabric, serve: Serve, agent: Agent, shop: Shop
) -> None:
    await serve(agent)
    ids: list[str] = []
    await ended(await fabric.agent(agent.name).start("refuse"))
    async with asyncio.timeout(10):
        async for letter in fabric.dead.find(Which(agent=agent.name)):
            ids.append(letter.id)
            await ended(await fabric.agent(agent.name).start("refuse"))
    assert len(ids) == 1


async def test_a_redriven_task_is_the_same_task(fabric: Fabric, serve: Serve, agent: Agent, shop: Shop) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    task = await client.start("pay", key="order-1")
    await ended(task)
    shop.money = True
    letter = await fabric.dead.show(task.id)
    assert await fabric.dead.redrive(letter)
    assert await task.result(timeout=10) == "order-1"
    assert await (await client.start("pay", key="order-1")).result(timeout=10) == "order-1"
    assert shop.paid == ["order-1"]
    record = await task.status()
    assert (record.state, record.attempt, len(record.errors), record.steps) == ("completed", 1, 2, {"ask": "asked"})
    assert await found(fabric, Which(agent=agent.name)) == []
    assert not await fabric.dead.redrive(letter), "it is not dead any more"
    assert shop.paid == ["order-1"]


async def test_a_task_that_waits_to_be_tried_again_is_not_dead(
    fabric: Fabric, serve: Serve, agent: Agent, shop: Shop
) -> None:
    worker = await serve(agent)
    task = await fabric.agent(agent.name).start("pay")
    await ended(task)
    await worker.drain(1)
    assert await fabric.dead.redrive(await fabric.dead.show(task.id))
    assert (await task.status()).state == "queued"
    with pytest.raises(errors.DeadlineExceeded):
        await task.result(timeout=0.05)
    shop.money = True
    await serve(agent)
    assert await task.result(timeout=10) == task.id


async def test_a_task_redriven_from_several_places_at_once_runs_once(
    fabric: Fabric, serve: Serve, agent: Agent, shop: Shop
) -> None:
    await serve(agent)
    task = await fabric.agent(agent.name).start("pay", key="order-1")
    await ended(task)
    shop.money = True
    letter = await fabric.dead.show(task.id)
    redriven = await asyncio.gather(*(fabric.dead.redrive(letter) for _ in range(8)))
    assert redriven.count(True) == 1
    assert await task.result(timeout=10) == "order-1"
    other = await fabric.agent(agent.name).start("pay")
    await other.result(timeout=10)
    assert shop.paid == ["order-1", other.id]


async def test_a_redriven_task_that_dies_again_has_a_new_letter_with_all_that_happened(
    fabric: Fabric, serve: Serve, agent: Agent, shop: Shop
) -> None:
    await serve(agent)
    task = await fabric.agent(agent.name).start("pay", key="order-1")
    await ended(task)
    first = await fabric.dead.show(task.id)
    assert await fabric.dead.redrive(first)
    await ended(task)
    second = await fabric.dead.show(task.id)
    assert second.sequence > first.sequence
    assert [each["attempt"] for each in second.errors] == [1, 2, 3, 4]
    assert not await fabric.dead.purge(first), "an old letter in hand does not touch the new one"
    assert await fabric.dead.purge(second)
    with pytest.raises(errors.UnknownTask):
        await fabric.dead.show(task.id)
    assert (await task.status()).state == "dead"


async def test_a_cancelled_task_is_not_redriven(fabric: Fabric, serve: Serve, agent: Agent, shop: Shop) -> None:
    worker = await serve(agent)
    task = await fabric.agent(agent.name).start("pay")
    await ended(task)
    await worker.drain(1)
    letter = await fabric.dead.show(task.id)
    assert await fabric.dead.redrive(letter)
    assert (await task.cancel()).state == "cancelled"
    shop.money = True
    await serve(agent)
    await (await fabric.agent(agent.name).start("pay")).result(timeout=10)
    assert len(shop.paid) == 1
    assert (await task.status()).state == "cancelled"


async def test_there_is_no_letter_of_the_living(fabric: Fabric, agent: Agent) -> None:
    with pytest.raises(errors.UnknownTask, match="no dead letter"):
        await fabric.dead.show("0" * 32)
    with pytest.raises(errors.ConfigurationError):
        await fabric.dead.show("*")
