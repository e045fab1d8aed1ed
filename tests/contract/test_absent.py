"""Calls of an agent that is not there, on every transport: the first wait, the later do not. Proves: CM-4, PT-1."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from support.waiting import until

from fabric_sdk import Agent
from fabric_sdk.contracts import errors
from fabric_sdk.patterns import call as calling
from fabric_sdk.remote import AgentClient
from fabric_sdk.routing import breaker
from fabric_sdk.routing.breaker import OPEN_AFTER
from tests.contract.conftest import Stage

pytestmark = pytest.mark.anyio

_numbers = count()
LONG = 60.0


@pytest.fixture
def name() -> str:
    """An agent's name that no other test has; the server is shared."""
    return f"absent-{next(_numbers)}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.3)


async def waits(client: AgentClient, times: int, timeout: float = LONG) -> None:
    for _ in range(times):
        with pytest.raises(errors.FabricError, match=r"no instance of|Timeout") as failed:
            await client.call("work", timeout=timeout)
        assert "does not wait" not in str(failed.value)


async def test_nobody_waits_for_who_was_waited_for_in_vain(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "TRY_SECONDS", LONG)
    fabric = await stage.client()
    client = fabric.agent(name)
    await waits(client, OPEN_AFTER)
    assert fabric.caller.breakers.open == [name]
    monkeypatch.setattr(calling, "PATIENCE", LONG)  # what waited now would never end
    async with asyncio.timeout(10):
        for _ in range(100):
            with pytest.raises(errors.AgentUnavailable, match="this one does not wait") as failed:
                await client.call("work", timeout=2 * LONG)
            assert (failed.value.fix, failed.value.started) == (calling._START_ONE, False)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(calling, "PATIENCE", 0.3)
    await waits(fabric.agent(f"{name}-2"), 1)  # each agent for itself
    with pytest.raises(errors.AgentUnavailable, match="instance 'it' is not taking calls"):
        await client.describe(instance="it", timeout=LONG)


async def test_a_call_that_tries_finds_who_came(stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "TRY_SECONDS", 0.1)
    fabric = await stage.client()
    client = fabric.agent(name)
    await waits(client, OPEN_AFTER)
    agent = Agent(name)

    @agent.tool
    async def work() -> str:
        raise ValueError("there, and of no use")

    await stage.serve(agent)

    async def taken() -> bool:
        with pytest.raises(errors.FabricError) as failed:
            await client.call("work", timeout=LONG)
        return not isinstance(failed.value, errors.AgentUnavailable)

    await until(taken, bool, what="a call that is taken")
    assert not fabric.caller.breakers, "whoever fails is there all the same"


async def test_who_does_not_wait_opens_nothing(stage: Stage, name: str) -> None:
    fabric = await stage.client()
    await waits(fabric.agent(name), 3 * OPEN_AFTER, timeout=0.1)
    assert not fabric.caller.breakers


async def test_one_that_is_taken_in_between_begins_the_count_anew(stage: Stage, name: str) -> None:
    fabric, agent = await stage.client(), Agent(name)
    client = fabric.agent(name)

    @agent.tool
    async def work() -> str:
        return "done"

    await waits(client, OPEN_AFTER - 1)
    worker = await stage.serve(agent)
    assert await client.call("work", timeout=LONG) == "done"
    assert not fabric.caller.breakers
    await stage.stop(worker)
    await waits(client, OPEN_AFTER - 1)
    assert fabric.caller.breakers.open == []
