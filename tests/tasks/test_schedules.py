"""Tasks started by the clock: every so often, by cron in a zone; at most one for each firing. Proves: MB-8."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.nats_server import PrivateNats
from support.waiting import eventually
from tasks.conftest import Serve

from fabric_sdk import Agent, Context
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.streams import LATER
from fabric_sdk.patterns.schedule import Schedule


@pytest.fixture
def ticks(agent: Agent) -> list[str]:
    """The keys under which the tool `tick` has run, each with what it was told."""
    ticks: list[str] = []

    @agent.tool
    async def tick(context: Context, word: str = "") -> None:
        ticks.append(f"{word} {context.key}")

    return ticks


@pytest.mark.parametrize(
    ("when", "zone"),
    [
        ("every x", None),
        ("every 10ms", None),
        ("99 9 * * *", None),
        ("", None),
        ("0 9 * * *", "Mars/Phobos"),
        ("every 5s", "Europe/Rome"),
    ],
)
async def test_what_is_no_schedule_is_refused_in_words(
    fabric: Fabric, agent: Agent, when: str, zone: str | None
) -> None:
    with pytest.raises(errors.InvalidParams, match=r"is no schedule.*write `every 90s`"):
        await fabric.agent(agent.name).schedule("name", when, "tick", zone=zone)
    assert await fabric.schedules.list(agent.name) == []


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*"], ids=repr)
async def test_what_can_be_no_name_is_refused(fabric: Fabric, agent: Agent, name: str) -> None:
    client = fabric.agent(agent.name)
    with pytest.raises(errors.InvalidParams, match="called so"):
        await client.schedule(name, "every 5s", "tick")
    with pytest.raises(errors.InvalidParams, match="called so"):
        await client.unschedule(name)


async def test_schedules_are_listed_replaced_and_removed(fabric: Fabric, agent: Agent) -> None:
    client = fabric.agent(agent.name)
    await client.schedule("report", "30 9 * * 1-5", "tick", {"word": "a"}, zone="Europe/Rome", priority="high")
    await client.schedule("sweep", "every 1h", "tick")
    await client.schedule("sweep", "every 2h", "tick")
    await client.schedule("nightly", "@daily", "tick")
    task = await client.start("tick", delay=3600)
    listed = {each.name: each for each in await fabric.schedules.list(agent.name)}
    assert listed.keys() == {"report", "sweep", "nightly", task.id}
    assert listed["report"] == Schedule(
        agent=agent.name,
        name="report",
        when="30 9 * * 1-5",
        zone="Europe/Rome",
        priority="high",
        tool="tick",
        arguments={"word": "a"},
    )
    assert (listed["sweep"].when, listed["nightly"].when) == ("every 2h", "@daily")
    assert (listed[task.id].again, listed[task.id].tool) == (False, "tick")
    assert {each.name for each in await fabric.schedules.list()} >= listed.keys()
    assert [await client.unschedule(name) for name in ("sweep", "sweep", "never")] == [True, False, False]
    assert (await task.cancel()).state == "cancelled"
    assert {each.name for each in await fabric.schedules.list(agent.name)} == {"report", "nightly"}


async def test_each_firing_is_one_task_however_many_workers_there_are(
    fabric: Fabric, serve: Serve, agent: Agent, ticks: list[str]
) -> None:
    for _ in range(2):
        await serve(agent)
    client = fabric.agent(agent.name)
    await client.schedule("often", "every 1s", "tick", {"word": "every"})
    await client.schedule("cron", "* * * * * *", "tick", {"word": "cron"})
    await client.schedule("replaced", "every 1s", "tick", {"word": "never"})
    await client.schedule("replaced", "every 1h", "tick")
    began = time.monotonic()
    await eventually(lambda: len(ticks) >= 4, what="two firings of each")
    passed = time.monotonic() - began
    await client.unschedule("often")
    await client.unschedule("cron")
    assert len(set(ticks)) == len(ticks)
    for word in ("every", "cron"):
        assert 1 <= sum(tick.startswith(word) for tick in ticks) <= passed + 1
    assert not any(tick.startswith("never") for tick in ticks)


async def test_a_firing_that_comes_twice_is_one_task(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent, ticks: list[str]
) -> None:
    # As if a worker had died between putting it into the queue and taking it off, and the others been away for long:
    # the same message is due again, under another place in the stream for the schedule and the same id for the task.
    await serve(agent)
    client = fabric.agent(agent.name)
    task = await client.start("tick", delay=0.01)
    await task.result(timeout=10)
    params = client.plan("tick").params
    due = f"fab.later.{agent.name}.due.{task.id}"
    await fabric.jetstream.request(f"STREAM.UPDATE.{LATER.name}", LATER.config(1) | {"duplicate_window": 100_000_000})
    tasks = await fabric.jetstream.request("STREAM.INFO.FAB_TASKS")
    await fabric.jetstream.request("STREAM.UPDATE.FAB_TASKS", tasks["config"] | {"duplicate_window": 100_000_000})
    await asyncio.sleep(0.15)
    await fabric.jetstream.store(due, params, {"Fab-Class": "normal"})
    await (await client.start("tick", {"word": "after"})).result(timeout=10)
    await eventually(lambda: len(ticks) == 2, what="the other task")
    assert ticks[0] == f" {task.id}"


async def test_schedules_survive_a_restart_and_missed_firings_are_made_up_for_once(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent, ticks: list[str]
) -> None:
    client = fabric.agent(agent.name)
    await client.schedule("often", "every 1s", "tick")
    once = await client.start("tick", {"word": "once"}, delay=0.5)
    breakable.kill()
    await asyncio.sleep(2.2)  # at least two firings, and the time of the task, with nobody there at all
    breakable.start()
    await serve(agent)
    await once.result(timeout=20)
    await eventually(lambda: len(ticks) >= 2, what="the firing that is made up for")
    soon = len(ticks)
    assert soon <= 3, "not as often as it was missed"
    await eventually(lambda: len(ticks) > soon, what="the next firing")
    assert len(set(ticks)) == len(ticks)
    assert await client.unschedule("often")
