"""What a start, a schedule or a subscription cannot mean is refused in words, before anything is stored.

Proves: MB-8 (a time or schedule that cannot be is refused), EV-2 (and so is a filter).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from tasks.conftest import Serve

from fabric_sdk import Agent, Event
from fabric_sdk.client import Fabric
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams
from fabric_sdk.patterns.task import Tasks


@pytest.mark.parametrize(
    "how",
    [
        {"delay": math.inf},
        {"delay": math.nan},
        {"delay": 1e12},
        {"delay": -1},
        {"at": 1e12},
        {"at": math.nan},
        {"at": datetime(9999, 12, 31, tzinfo=UTC)},
        {"expires": math.inf},
        {"expires": math.nan},
        {"expires": -1},
        {"keep": math.nan},
    ],
    ids=str,
)
async def test_a_time_that_cannot_be_is_refused(fabric: Fabric, agent: Agent, how: dict[str, Any]) -> None:
    client = fabric.agent(agent.name)
    with pytest.raises(InvalidParams, match=r"seconds|finite"):
        await client.start("echo", **how)
    with pytest.raises(InvalidParams):
        client.plan("echo", **how)


async def test_a_time_that_is_past_is_now(fabric: Fabric, serve: Serve, agent: Agent) -> None:
    @agent.tool
    async def echo() -> str:
        return "done"

    await serve(agent)
    task = await fabric.agent(agent.name).start("echo", at=1.0)
    assert await task.result(timeout=10) == "done"


@pytest.mark.parametrize("value", [math.nan, 2**64, object(), "\ud83d"], ids=lambda value: repr(value)[:10])
async def test_what_has_no_json_form_is_refused(fabric: Fabric, agent: Agent, value: Any) -> None:
    client, conversation = fabric.agent(agent.name), fabric.conversation(agent.name)
    for put in (
        client.start("echo", {"value": value}),
        client.start("echo", {"value": value}, key="k"),
        client.schedule("s", "every 90s", "echo", {"value": value}),
        fabric.publish(f"{agent.name}.a", value),
        conversation.append(value),
        conversation.snapshot(value),
    ):
        with pytest.raises(InvalidParams, match="has no JSON form"):
            await put
    assert await fabric.schedules.list(agent.name) == []
    assert await conversation.version() == 0


@pytest.mark.parametrize("when", ["@at 2020-01-01T00:00:00Z", "", "@at"])
async def test_a_schedule_that_is_none_is_refused(fabric: Fabric, agent: Agent, when: str) -> None:
    with pytest.raises(InvalidParams, match=r"is no schedule.*start\(…, at=…\)"):
        await fabric.agent(agent.name).schedule("s", when, "echo")
    assert await fabric.schedules.list(agent.name) == []


async def test_a_misspelt_option_is_told_as_python_tells_its_own(fabric: Fabric, agent: Agent) -> None:
    client = cast("Any", fabric.agent(agent.name))
    odd = cast("Any", fabric)
    for call, told in (
        (lambda: client.plan("echo", dealy=5), "AgentClient.plan"),
        (lambda: odd.subscribe("a", dealy=5), "Fabric.subscribe"),
        (lambda: odd.replay("a", dealy=5), "Fabric.replay"),
        (lambda: odd.publish("a", 1, dealy=5), "Fabric.publish"),
        (lambda: cast("Any", agent).tool(dealy=5), "Agent.tool"),
        (lambda: cast("Any", agent).prompt(dealy=5), "Agent.prompt"),
    ):
        with pytest.raises(TypeError, match=rf"^{told}\(\) got an unexpected keyword argument 'dealy'$"):
            call()
    with pytest.raises(TypeError, match=r"^AgentClient.start\(\) got an unexpected keyword argument 'dealy'$"):
        await client.start("echo", dealy=5)


def test_a_policy_is_a_policy(agent: Agent) -> None:
    async def echo() -> None: ...

    for offer in (agent.tool(task=cast("Any", {"attempts": 3})), agent.on("a", task=cast("Any", {"attempts": 3}))):
        with pytest.raises(ConfigurationError, match=r"write task=Policy\(attempts=3\)"):
            offer(echo)


@pytest.mark.parametrize("end", ["waits", "has ended", "races"])
async def test_a_key_names_a_task_of_one_tool(
    fabric: Fabric, serve: Serve, agent: Agent, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):

        @agent.tool(name=name)
        async def tool(n: int = 0) -> int:
            return n

    client = fabric.agent(agent.name)
    task = await client.start("first", key="k")
    if end == "has ended":
        await serve(agent)
        await task.result(timeout=10)
    if end == "races":
        looked: list[Any] = []
        really = Tasks._is_known  # pyright: ignore[reportPrivateUsage]

        async def look(self: Tasks, start: Any) -> bool:
            looked.append(start)
            return len(looked) > 1 and await really(self, start)  # the other start is stored after the first look

        monkeypatch.setattr(Tasks, "_is_known", look)
    with pytest.raises(InvalidParams, match=r"the key 'k' names task .* of the tool 'first', not of 'second'"):
        await client.start("second", key="k")
    again = await client.start("first", key="k")
    assert (again.joined, again.id) == (True, task.id)


async def test_a_subscription_to_what_there_never_is_is_refused(fabric: Fabric, agent: Agent) -> None:
    async def react(event: Event) -> None: ...

    with pytest.raises(InvalidParams, match="speaks of 'dta'"):
        fabric.subscribe("orders", filter="dta.n > 1")
    with pytest.raises(InvalidParams, match="speaks of 'dta'"):
        agent.on("orders", filter="dta.n > 1")(react)
