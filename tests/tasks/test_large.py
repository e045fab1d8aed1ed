"""Arguments too large for a message are kept as long as somebody may need them, whichever way their task ends.

Proves: MB-5 (a letter can be sent again whole), MB-8
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.waiting import eventually, until
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import OBJECTS, TASKS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.doing import Doer
from fabric_sdk.handle import Task
from fabric_sdk.jetstream import Claims
from fabric_sdk.pipeline import Request

LARGE = {"value": "x" * 1_500_000}


class Asking(Agent):
    """Its tools ask before they do anything."""

    async def handle(self, context: Context, request: Request) -> Body:
        return Body({"resultType": "input_required", "inputRequests": {"sure": {"method": "elicitation/create"}}})


@pytest.fixture
def echo(agent: Agent) -> list[Any]:
    """What the agent's tool `echo` was given."""
    ran: list[Any] = []

    @agent.tool
    async def echo(value: str) -> int:
        ran.append(value)
        return len(value)

    return ran


async def piece(fabric: Fabric, task: Task) -> str:
    """The subject of the first piece of what a task that waits is given."""
    waiting = await fabric.jetstream.last(TASKS, subjects.task(task.agent, "*", task.id))
    assert waiting is not None
    return subjects.piece(waiting.headers[Header.CLAIM].partition(".")[0], 0)


async def is_kept(fabric: Fabric, subject: str) -> bool:
    return await fabric.jetstream.last(OBJECTS, subject) is not None


async def goes(fabric: Fabric, subject: str) -> None:
    async with asyncio.timeout(10):
        while await is_kept(fabric, subject):  # noqa: ASYNC110 - the broker lets it go and tells nobody
            await asyncio.sleep(0.02)


async def test_of_a_task_that_expires_before_a_worker_comes(
    fabric: Fabric, serve: Serve, agent: Agent, echo: list[Any]
) -> None:
    task = await fabric.agent(agent.name).start("echo", LARGE, expires=0.05)
    subject = await piece(fabric, task)
    await asyncio.sleep(0.1)
    assert await is_kept(fabric, subject)
    await serve(agent)
    await goes(fabric, subject)
    with pytest.raises(errors.TaskExpired):
        await task.result(timeout=5)
    assert not echo


async def test_of_a_task_cancelled_in_the_queue(fabric: Fabric, agent: Agent) -> None:
    task = await fabric.agent(agent.name).start("echo", LARGE)
    subject = await piece(fabric, task)
    assert (await task.cancel()).state == "cancelled"
    assert not await is_kept(fabric, subject)


async def test_of_a_task_cancelled_while_it_waits_for_answers(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    task = await fabric.agent(agent.name).start("echo", LARGE)
    subject = await piece(fabric, task)
    await serve(Asking(agent.name))
    async for record in task.changes():
        if record.state == "input_required":
            break
    assert await is_kept(fabric, subject), "what goes on with the answers needs it"
    assert (await task.cancel()).state == "cancelled"
    assert not await is_kept(fabric, subject)


async def test_of_a_task_whose_worker_was_lost_after_it_wrote_the_end(
    fabric: Fabric, serve: Serve, agent: Agent, echo: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_TASK_ACK_WAIT", "1")
    drop, lost = Claims.drop, list[str]()

    async def lose(self: Claims, claim: str) -> None:
        if not lost:
            lost.append(claim)
            raise asyncio.CancelledError
        await drop(self, claim)

    monkeypatch.setattr(Claims, "drop", lose)
    task = await fabric.agent(agent.name).start("echo", LARGE)
    subject = await piece(fabric, task)
    await serve(agent)
    assert await task.result(timeout=10) == len(LARGE["value"])
    await goes(fabric, subject)
    assert (len(echo), len(lost)) == (1, 1)


async def test_of_a_dead_task_until_it_is_done_after_all(
    fabric: Fabric, serve: Serve, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_TASK_ACK_WAIT", "1")
    works, looked = False, list[str]()

    @agent.tool(task=Policy(attempts=1))
    async def echo(value: str) -> int:
        if not works:
            raise ValueError("not yet")
        return len(value)

    bury, claim = Doer._bury, Doer._claim  # pyright: ignore[reportPrivateUsage]

    async def lose(self: Doer, attempt: Any, *why: Any) -> None:
        await attempt.bury()
        raise asyncio.CancelledError  # its message comes again, though it is dead

    async def look(self: Doer, each: Any, known: bool) -> Any:
        claimed = await claim(self, each, known)
        looked.append(each.id)
        return claimed

    monkeypatch.setattr(Doer, "_bury", lose)
    monkeypatch.setattr(Doer, "_claim", look)
    task = await fabric.agent(agent.name).start("echo", LARGE)
    subject = await piece(fabric, task)
    await serve(agent)
    with pytest.raises(errors.TaskDead):
        await task.result(timeout=10)
    await eventually(lambda: len(looked) == 2, what="its message, once more")
    queued = subjects.task(task.agent, "*", task.id)
    await until(lambda: fabric.jetstream.last(TASKS, queued), lambda left: left is None, what="the end of its message")
    monkeypatch.setattr(Doer, "_bury", bury)
    works = True
    assert await is_kept(fabric, subject)
    assert await fabric.dead.redrive(await fabric.dead.show(task.id))
    assert await task.result(timeout=10) == len(LARGE["value"])
    await goes(fabric, subject)
