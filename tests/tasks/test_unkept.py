"""What a handler wants kept and JSON cannot carry, and handlers that end in odd ways: one attempt, told in words.

Proves: MB-2, MB-5, MB-6.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.task import Record

QUICK = Policy(attempts=3, first_wait=0.01)
UNFIT = {"big": 2**64, "surrogate": "\ud83d", "nested": {"a": [2**70]}, "odd": object(), "deep": None}
for _ in range(253):  # JSON so deep travels alone, but not within a record
    UNFIT["deep"] = [UNFIT["deep"]]


async def died(fabric: Fabric, agent: Agent, tool: str, arguments: dict[str, Any] | None = None) -> Record:
    """The record of a task that fails for good, in less time than a lost worker is noticed."""
    task = await fabric.agent(agent.name).start(tool, arguments)
    with pytest.raises(errors.TaskDead):
        await task.result(timeout=10)
    return await task.status()


@pytest.mark.parametrize("what", UNFIT)
async def test_what_cannot_be_kept_ends_the_task_at_once_and_is_done_once(
    fabric: Fabric, serve: Serve, agent: Agent, what: str
) -> None:
    done: list[str] = []

    @agent.tool(task=QUICK)
    async def charge(context: Context) -> None:
        def pay() -> Any:
            done.append(what)
            return UNFIT[what]

        await context.once("pay", pay)

    await serve(agent)
    record = await died(fabric, agent, "charge")
    assert (record.attempt, record.steps, done) == (1, {}, [what])
    assert [each["code"] for each in record.errors] == [errors.UnencodableResult.code]
    assert "only JSON values can be kept with a task" in record.errors[0]["error"]


@pytest.mark.parametrize("what", UNFIT)
async def test_a_handler_may_catch_it_and_go_on_with_the_old_state(
    fabric: Fabric, serve: Serve, agent: Agent, what: str
) -> None:
    @agent.tool(task=QUICK)
    async def save(context: Context) -> Any:
        await context.checkpoint("old")
        with pytest.raises(errors.UnencodableResult):
            await context.checkpoint(UNFIT[what])
        with pytest.raises(errors.UnencodableResult):
            await context.once("step", lambda: UNFIT[what])
        return [context.saved, await context.once("step", lambda: "new")]

    await serve(agent)
    task = await fabric.agent(agent.name).start("save")
    assert await task.result(timeout=10) == ["old", "new"]
    assert (await task.status()).attempt == 1


async def test_progress_that_cannot_be_told_harms_nothing(
    fabric: Fabric, serve: Serve, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    @agent.tool(task=QUICK)
    async def work(context: Context) -> str:
        await context.progress(1, 3, "begun")
        await context.progress(2, 3, "\ud83d")
        await context.progress(2**70, 3)
        await context.progress(2**71, 3, "x" * 900_000)  # alone it travels, with the record around it, it would not
        await context.checkpoint("y" * 100_000)
        return "done"

    await serve(agent)
    task = await fabric.agent(agent.name).start("work")
    assert await task.result(timeout=10) == "done"
    record = await task.status()
    assert (record.attempt, record.progress) == (1, {"progress": 1, "total": 3, "message": "begun"})
    assert "has no JSON form and was dropped" in caplog.text


@pytest.mark.parametrize("kind", [GeneratorExit, KeyboardInterrupt, SystemExit], ids=lambda kind: kind.__name__)
async def test_whatever_a_handler_raises_fails_its_attempt_at_once(
    fabric: Fabric, serve: Serve, agent: Agent, kind: type[BaseException]
) -> None:
    @agent.tool(task=Policy(attempts=2, first_wait=0.01, retry_on=("BaseException",)))
    async def leave() -> None:
        raise kind("away")

    await serve(agent)
    record = await died(fabric, agent, "leave")
    assert [each["error"] for each in record.errors] == [f"{kind.__name__}: away"] * 2


async def test_each_failed_attempt_is_logged_once_with_its_traceback(
    fabric: Fabric, serve: Serve, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    @agent.tool(task=Policy(attempts=2, first_wait=0.01))
    async def parse() -> None:
        json.loads("{")

    await serve(agent)
    record = await died(fabric, agent, "parse")
    assert all(each["error"].startswith("JSONDecodeError: Expecting") for each in record.errors)
    told = [each for each in caplog.records if each.exc_info and isinstance(each.exc_info[1], json.JSONDecodeError)]
    assert [each.levelno for each in told] == [logging.WARNING, logging.ERROR]
    assert "attempt 1 of 2 at parse" in told[0].getMessage()
    assert 'json.loads("{")' in caplog.text


async def test_a_result_without_a_json_form_is_told_by_the_name_of_its_tool(
    fabric: Fabric, serve: Serve, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    @agent.tool(task=QUICK)
    async def big() -> Any:
        return 2**64

    @agent.tool(task=QUICK)
    async def count() -> int:
        return "many"  # type: ignore[return-value]

    await serve(agent)
    assert "big returned what has no JSON form" in (await died(fabric, agent, "big")).errors[0]["error"]
    caplog.clear()
    for tool, words in (("big", "big returned what has no JSON form"), ("count", "count returned str (the value: ")):
        with pytest.raises(errors.FabricError, match=words.replace("(", r"\(")):
            await fabric.agent(agent.name).call(tool)
        assert [words in each.getMessage() and "(return " in each.getMessage() for each in caplog.records] == [True]
        assert "Pydantic" not in caplog.text
        caplog.clear()


async def test_attempts_are_numbered_on_when_a_task_is_redriven(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool(task=Policy(attempts=2, first_wait=0.01))
    async def fail() -> None:
        raise OSError("no disk")

    await serve(agent)
    record = await died(fabric, agent, "fail")
    for tries in (4, 6):
        assert await fabric.dead.redrive(await fabric.dead.show(record.id))
        with pytest.raises(errors.TaskDead):
            await fabric.agent(agent.name).task(record.id).result(timeout=10)
        record = await fabric.agent(agent.name).task(record.id).status()
        assert (record.attempt, record.tries) == (2, tries)
    assert [each["attempt"] for each in record.errors] == [1, 2, 3, 4, 5, 6]
