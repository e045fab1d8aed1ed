"""Records, letters and messages that are broken, or somebody else's: told in words, and none is tried for ever.

Proves: MB-2, MB-6.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.waiting import Ear
from tasks.conftest import Serve

from fabric.durable.letters import redrive
from fabric.durable.tasks import listed
from fabric_sdk import Agent
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Scope
from fabric_sdk.contracts.streams import LATER, RECORDS, TASKS
from fabric_sdk.contracts.task import new_task_id
from fabric_sdk.jetstream import JetStream
from fabric_sdk.patterns.dead import Which
from fabric_sdk.patterns.start import Start

PARAMS = Body({"name": "echo", "arguments": {"value": 1}})


@pytest.fixture
def ran(agent: Agent) -> list[Any]:
    """What the tool `echo` was run with."""
    ran: list[Any] = []

    @agent.tool
    async def echo(value: Any = None) -> Any:
        ran.append(value)
        return value

    return ran


@pytest.fixture(autouse=True)
async def streams(fabric: Fabric) -> None:
    for stream in (TASKS, RECORDS, LATER):
        await fabric.jetstream.ensure(stream)


async def put(fabric: Fabric, subject: str, body: bytes, **headers: str) -> None:
    """Store what no client of ours would."""
    named = {f"Fab-{name}": value for name, value in headers.items()}
    await fabric.jetstream.store(subject, Body(encoded=body), named)


@pytest.mark.parametrize(
    "stored", [b"", b"\xff", b"[]", b'{"state":"lost"}', b'{"state":"running","attempt":"x"}', b'{"returned":-9e15}']
)
async def test_a_task_whose_record_cannot_be_read_is_buried_and_may_be_redriven(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], stored: bytes
) -> None:
    await put(fabric, subjects.record(agent.name, "t"), stored)
    task = fabric.agent(agent.name).task("t")
    for read in (task.status, task.cancel, task.result):
        with pytest.raises(errors.UnreadableRecord, match="what is on record of task t cannot be read"):
            await read()
    assert await listed(fabric, agent=agent.name) == [], "and it hides no others"
    ear = Ear()
    await fabric.transport.subscribe(subjects.told(agent.name, "t"), ear)
    await put(fabric, subjects.task(agent.name, "normal", "t"), PARAMS.encoded(), Key="k")
    await serve(agent)
    await ear.wait()
    record = await task.status()
    assert (record.state, ran) == ("dead", [])
    assert "cannot be read" in record.errors[0]["error"]
    assert await fabric.dead.redrive(await fabric.dead.show("t"))
    assert await task.result(timeout=10) == 1


async def test_whose_a_record_is_its_subject_says_and_not_its_body(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    other = b'{"id":"other","agent":"durable","state":"queued","attempt":1}'
    for task_id in ("run", "cancel"):
        await put(fabric, subjects.record(agent.name, task_id), other)
    cancelled = fabric.agent(agent.name).task("cancel")
    assert (await asyncio.wait_for(cancelled.cancel(), 5)).state == "cancelled"
    await put(fabric, subjects.task(agent.name, "normal", "run"), PARAMS.encoded())
    await serve(agent)
    task = fabric.agent(agent.name).task("run")
    assert await task.result(timeout=10) == 1
    assert {each.id for each in await listed(fabric, agent=agent.name)} == {"run", "cancel"}


async def test_whoever_looks_at_a_record_that_changes_all_the_time_gives_up_in_words(
    fabric: Fabric, agent: Agent, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await fabric.agent(agent.name).start("echo")
    written = 0
    really_store = JetStream.store

    async def be_quicker(self: JetStream, subject: str, *rest: Any, **how: Any) -> Any:
        nonlocal written
        if subject.startswith("fab.record."):
            written += 1
            await really_store(fabric.jetstream, subject, Body({"state": "running"}))
        return await really_store(self, subject, *rest, **how)

    monkeypatch.setattr(JetStream, "store", be_quicker)
    with pytest.raises(errors.FabricError, match="changes all the time"):
        await asyncio.wait_for(task.cancel(), 10)
    assert written == 100


async def test_whoever_lets_a_held_task_begin_that_changes_all_the_time_gives_up_too(
    fabric: Fabric, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start(agent=agent.name, params=PARAMS, scope=Scope(0.0))
    assert await fabric.tasks.hold(start, "it waits for a person")
    held = await fabric.jetstream.last(RECORDS, subjects.record(agent.name, start.id))
    assert held is not None
    written = 0
    really_store = JetStream.store

    async def be_quicker(self: JetStream, subject: str, *rest: Any, **how: Any) -> Any:
        nonlocal written
        if subject.startswith("fab.record."):
            written += 1
            await really_store(fabric.jetstream, subject, held.body)
        return await really_store(self, subject, *rest, **how)

    monkeypatch.setattr(JetStream, "store", be_quicker)
    with pytest.raises(errors.FabricError, match="changes all the time"):
        await asyncio.wait_for(fabric.tasks.release(agent.name, start.id), 10)
    assert written == 100


@pytest.mark.parametrize(
    "headers",
    [
        {"Round": "nan"},
        {"Round": "inf"},
        {"Round": "-3"},
        {"Expires": "abc"},
        {"Expires": "nan"},
        {"Keep": "inf"},
        {"Keep": "-5"},
    ],
    ids=str,
)
async def test_a_header_that_holds_no_number_is_passed_over(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], headers: dict[str, str]
) -> None:
    await put(fabric, subjects.task(agent.name, "normal", "t"), PARAMS.encoded(), **headers)
    await serve(agent)
    assert await fabric.agent(agent.name).task("t").result(timeout=10) == 1
    assert ran == [1]


@pytest.mark.parametrize("named", ["a b", "a.b.c", "", "bogus"])
async def test_what_is_due_in_a_class_that_is_none_is_normal_and_costs_no_connection(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any], named: str
) -> None:
    worker = await serve(agent)
    lost: list[str] = []
    worker._transport.listen(lost.append)  # pyright: ignore[reportPrivateUsage]
    task = fabric.agent(agent.name).task(new_task_id())  # the server knows ids again, whosever they are
    await put(fabric, subjects.later(agent.name, "due", task.id), PARAMS.encoded(), Class=named)
    assert await task.result(timeout=10) == 1
    assert (await task.status()).priority == "normal"
    assert lost == []


async def test_a_letter_with_odd_headers_is_redriven_and_is_its_subjects(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[Any]
) -> None:
    await put(fabric, subjects.record(agent.name, "t"), b'{"state":"dead","origin":0}')
    letter = b"""{"id": "x y", "agent": "sh op.*", "died": 1, "errors": [], "params": {"name": "echo", "arguments": {}},
                  "headers": {"Fab-Key": 5, "a\\r\\nb": "c", "Fab-Keep": "60"}}"""
    await put(fabric, subjects.dead(agent.name, "t"), letter)
    (found,) = [each async for each in fabric.dead.find(Which(agent=agent.name))]
    assert (found.id, found.agent, found.headers) == ("t", agent.name, {"Fab-Keep": "60"})
    assert await fabric.dead.redrive(found)
    await serve(agent)
    assert await fabric.agent(agent.name).task("t").result(timeout=10) is None


async def test_a_letter_whose_record_cannot_be_read_stays_and_stops_no_others(fabric: Fabric, agent: Agent) -> None:
    for task_id, record in (("odd", b"\xff"), ("dead", b'{"state":"dead"}')):
        await put(fabric, subjects.record(agent.name, task_id), record)
        await put(fabric, subjects.dead(agent.name, task_id), b'{"died": 1, "params": {}}')
    handled = await redrive(fabric, fabric.dead.find(Which(agent=agent.name)))
    assert (handled.done, handled.passed_over, handled.ids) == (1, 1, ["dead"])
    assert [letter.id async for letter in fabric.dead.find(Which(agent=agent.name))] == ["odd"]
