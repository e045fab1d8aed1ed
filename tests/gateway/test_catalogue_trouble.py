"""What the gateway does about agents that describe themselves badly, a root that is away, and names that are near.

Proves: CM-1, GW-8
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from support.waiting import eventually

from fabric.gateway import catalogue
from fabric.gateway.catalogue import CatalogueKeeper
from fabric.gateway.forward import Forwarder
from fabric.gateway.rpc import Refusal
from fabric.gateway.view import View, mounted
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from gateway.fakes import FakeRegistry, offering


@asynccontextmanager
async def keeping(registry: FakeRegistry, *, root: str | None = None) -> AsyncGenerator[CatalogueKeeper]:
    """A keeper that runs, on a bus within this process."""
    bus = MemoryTransport()
    worker = Worker(bus, registry.agent())
    await worker.start()
    async with Fabric.over(bus) as fabric:
        keeper = CatalogueKeeper(fabric, root=root)
        running = asyncio.create_task(keeper.run())
        yield keeper
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    await worker.drain(0.0)


async def nudge(keeper: CatalogueKeeper) -> None:
    """Tell a keeper of a change."""
    bus = keeper._fabric.transport  # pyright: ignore[reportPrivateUsage]
    await bus.publish(Message(subjects.CATALOGUE_CHANGED, Body({})))


async def test_a_bad_agent_is_told_of_once_and_asked_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogue, "_DESCRIBE_SECONDS", 0.1)
    registry = FakeRegistry()
    registry.agents = {"bad": {"name": "Not a name"}, "a": offering("a", "x")}
    async with keeping(registry) as keeper:
        for _ in range(20):  # however often there is news of others
            await nudge(keeper)
            await asyncio.sleep(0.05)
        assert keeper.view.tools.keys() == {"a_x"}
        assert 2 <= registry.asked.count("bad") <= 5, "after 0.1 s, 0.2 s, 0.4 s …"
    assert caplog.text.count("agent bad is not listed as it is now") == 1


@pytest.mark.parametrize("wrong", [{"name": "b"}, {"digest": "another"}], ids=["name", "digest"])
async def test_a_description_of_something_else_is_not_shown(caplog: pytest.LogCaptureFixture, wrong: Any) -> None:
    registry = FakeRegistry()
    said = offering("a", "x")
    registry.agents = {"a": said}
    async with keeping(registry) as keeper:
        await eventually(lambda: keeper.view.tools.keys() == {"a_x"})
        announced = Description(name="a", digest="announced")
        registry.agents = {"a": announced}
        registry.answers = {"a": announced.model_copy(update=wrong)}
        await nudge(keeper)
        await eventually(lambda: "a announced was asked for" in caplog.text)
        assert keeper.view.tools.keys() == {"a_x"}, "shown as it was"


async def test_a_description_of_the_future_is_asked_for_once() -> None:
    registry = FakeRegistry()
    registry.agents = {"a": Description(name="a", digest="of-the-future", tools=[{"name": "x"}])}
    async with keeping(registry) as keeper:
        await eventually(lambda: keeper.view.tools.keys() == {"a_x"})
        for _ in range(5):
            await nudge(keeper)
            await asyncio.sleep(0.05)
    assert registry.asked == ["a"]


async def test_a_root_that_is_not_there_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogue, "_ROOT_SECONDS", 0.3)
    registry = FakeRegistry()
    registry.agents = {"a": offering("a", "x")}
    async with keeping(registry, root="nosuch") as keeper:
        for _ in range(12):
            await nudge(keeper)
            await asyncio.sleep(0.05)
    assert caplog.text.count("the root agent 'nosuch' is not there") == 1
    caplog.clear()
    async with keeping(registry, root="a") as keeper:
        for _ in range(12):
            await nudge(keeper)
            await asyncio.sleep(0.05)
    assert not caplog.text


@pytest.mark.parametrize(
    ("named", "hint"),
    [
        ("hello_eco", "; did you mean hello_echo?"),
        ("hello_cuont", "; did you mean hello_count?"),
        ("hello_nothing-like-it", ""),
        ("hell_echo", ""),
        ("hello_" + "echo" * 1000, ""),
        ("", ""),
    ],
)
async def test_a_name_that_is_near_a_tools_is_hinted_at(named: str, hint: str) -> None:
    async with Fabric.over(MemoryTransport()) as fabric:
        view = View(mounted([offering("hello", "echo", "count"), offering("other", "echo")]))
        with pytest.raises(Refusal) as refused:
            Forwarder(fabric, timeout=1.0).route(view, "tools/call", named)
    assert refused.value.message == f"there is no tool {named!r}{hint}"
