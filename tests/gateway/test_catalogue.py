"""What the gateway knows of the agents stays whole while a registry, or one bad agent, does not.

Proves: CM-1, GW-8
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
from support.waiting import eventually

from fabric.gateway.catalogue import CatalogueKeeper
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from gateway.fakes import FakeRegistry, offering


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
async def keeper(registry: FakeRegistry) -> AsyncGenerator[CatalogueKeeper]:
    """A keeper that runs, on a bus within this process."""
    transport = MemoryTransport()
    worker = Worker(transport, registry.agent())
    await worker.start()
    async with Fabric.over(transport) as fabric:
        keeper = CatalogueKeeper(fabric)
        running = asyncio.create_task(keeper.run())
        await keeper.ready.wait()
        yield keeper
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    await worker.drain(0.0)


class Change:
    """Tells a keeper of changes."""

    def __init__(self, keeper: CatalogueKeeper) -> None:
        self._transport = keeper._fabric.transport  # pyright: ignore[reportPrivateUsage]
        self._keeper = keeper

    async def shows(self, *names: str) -> None:
        """Say that something changed, and wait until exactly these tools are shown."""
        await self._transport.publish(Message(subjects.CATALOGUE_CHANGED, Body({})))
        await eventually(lambda: self._keeper.view.tools.keys() == set(names), what=f"the tools {names}", seconds=5)


@pytest.fixture
def change(keeper: CatalogueKeeper) -> Change:
    return Change(keeper)


async def test_agents_come_change_and_go(registry: FakeRegistry, change: Change) -> None:
    registry.agents = {"a": offering("a", "x"), "b": offering("b", "x")}
    await change.shows("a_x", "b_x")
    registry.agents = {"a": offering("a", "x", "y"), "b": offering("b", "x")}
    await change.shows("a_x", "a_y", "b_x")
    assert registry.asked == ["a", "b", "a"], "what is known is not asked for again"
    registry.agents = {}
    await change.shows()


async def test_an_agent_that_does_not_describe_itself_keeps_nobody_from_being_listed(
    registry: FakeRegistry, change: Change
) -> None:
    registry.agents = {"ghost": None, "a": offering("a", "x")}
    await change.shows("a_x")
    registry.agents |= {"b": offering("b", "x")}
    await change.shows("a_x", "b_x")
    registry.agents["ghost"] = offering("ghost", "x")
    await change.shows("a_x", "b_x", "ghost_x")


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"name": "bad", "tools": [{"title": "no name"}]}, id="tool-without-a-name"),
        pytest.param({"name": "bad", "tools": [{"name": 5}]}, id="tool-with-a-number-for-a-name"),
        pytest.param({"name": "bad", "resources": [{"name": "no uri"}]}, id="resource-without-a-uri"),
        pytest.param({"name": "bad", "resource_templates": [{"name": "x"}]}, id="template-without-one"),
        pytest.param({"name": "bad", "prompts": ["x"]}, id="prompt-that-is-a-string"),
    ],
)
async def test_an_agent_that_describes_itself_wrongly_spoils_no_list(
    registry: FakeRegistry, keeper: CatalogueKeeper, change: Change, nonsense: Any
) -> None:
    registry.agents = {"bad": nonsense, "a": offering("a", "x")}
    await change.shows("a_x")
    assert not keeper.stale
    registry.agents = {"bad": offering("bad", "x"), "a": offering("a", "x")}
    await change.shows("a_x", "bad_x")


async def test_an_agent_whose_change_cannot_be_seen_is_shown_as_it_was(registry: FakeRegistry, change: Change) -> None:
    registry.agents = {"a": offering("a", "x")}
    await change.shows("a_x")
    registry.agents = {"a": None, "b": offering("b", "x")}
    await change.shows("a_x", "b_x")


async def test_a_registry_that_talks_nonsense_changes_nothing(
    registry: FakeRegistry, keeper: CatalogueKeeper, change: Change
) -> None:
    registry.agents = {"a": offering("a", "x")}
    await change.shows("a_x")
    registry.broken = True
    await change.shows("a_x")
    await eventually(lambda: keeper.stale)
    registry.broken = False
    registry.agents |= {"b": offering("b", "x")}
    await change.shows("a_x", "b_x")
    await eventually(lambda: not keeper.stale)


async def test_a_catalogue_from_the_bus_adds_and_changes_and_takes_nothing_away(
    registry: FakeRegistry, change: Change
) -> None:
    registry.agents = {"a": offering("a", "x"), "b": offering("b", "x")}
    await change.shows("a_x", "b_x")
    registry.revision = 0
    registry.agents = {"a": offering("a", "y"), "c": offering("c", "x")}
    await change.shows("a_y", "b_x", "c_x")
    registry.revision = 2
    await change.shows("a_y", "c_x")
