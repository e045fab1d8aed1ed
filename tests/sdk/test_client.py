"""A caller's side: what a result becomes, and how a client is made. Proves: PT-1, RT-4."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from support.nats_server import private_nats

from fabric_sdk import Agent, Fabric, ToolError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import ConfigurationError, TransportUnavailable
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker

pytestmark = pytest.mark.anyio

WRAPPED = {"fabric/wrapped": True}


@pytest.fixture
async def bus() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
async def fabric(bus: MemoryTransport) -> AsyncGenerator[Fabric]:
    async with Fabric.over(bus) as fabric:
        yield fabric


async def answering(bus: MemoryTransport, result: Any) -> None:
    """An agent `told`, of whatever make, that answers each call with this MCP result."""
    answers = list[asyncio.Task[None]]()

    def answer(message: Message) -> None:
        answers.append(asyncio.get_running_loop().create_task(bus.publish(Message(message.reply, Body(result)))))

    await bus.subscribe(subjects.calls("told"), answer, queue=subjects.POOL)


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts]


IMAGE = {"type": "image", "data": "", "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ({"content": said("7"), "structuredContent": {"result": 7}, "_meta": WRAPPED}, 7),
        ({"content": said("null"), "structuredContent": {"result": None}, "_meta": WRAPPED}, None),
        ({"content": said("{}"), "structuredContent": {"result": 7}}, {"result": 7}),
        ({"content": said("{}"), "structuredContent": {"result": 7}, "_meta": {"fastmcp": {"wrap_result": True}}}, 7),
        ({"content": said("{}"), "structuredContent": {"a": 1}, "_meta": {}}, {"a": 1}),
        ({"content": [], "structuredContent": [1]}, [1]),
        ({"content": said("text")}, "text"),
        ({"content": said("")}, ""),
        ({"content": said("one", "two")}, said("one", "two")),
        ({"content": [IMAGE]}, [IMAGE]),
        ({"content": []}, None),
        ({}, None),
        ({"content": said("7"), "isError": False}, "7"),
    ],
)
async def test_a_result_becomes_the_value_that_it_stands_for(
    bus: MemoryTransport, fabric: Fabric, result: dict[str, Any], value: Any
) -> None:
    await answering(bus, result)
    assert await fabric.agent("told").call("tool") == value


@pytest.mark.parametrize(
    ("content", "message"),
    [(said("no"), "no"), (said("one", "two"), "one\ntwo"), ([IMAGE, *said("seen")], "seen"), ([], "The tool reported")],
)
async def test_a_result_that_is_an_error_is_raised_with_its_content(
    bus: MemoryTransport, fabric: Fabric, content: list[Any], message: str
) -> None:
    await answering(bus, {"content": content, "isError": True, "structuredContent": {"ignored": True}})
    with pytest.raises(ToolError) as raised:
        await fabric.agent("told").call("tool")
    assert str(raised.value).startswith(message)
    assert raised.value.data == content


@pytest.mark.parametrize("name", ["", "Two Words", "a.b", "*", ">"])
async def test_a_name_that_no_agent_can_have_is_refused_at_once(fabric: Fabric, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name an agent"):
        fabric.agent(name)


async def test_without_an_address_the_error_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FABRIC_NATS_URL", raising=False)
    with pytest.raises(ConfigurationError, match="fabric up") as refused:
        async with Fabric.connect():
            pass
    assert refused.value.fix


async def test_a_client_connects_by_address_or_by_environment_and_closes_what_it_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = Agent("greeter")

    @agent.tool
    async def greet(who: str) -> str:
        return f"Hello, {who}!"

    with private_nats() as server:
        async with Fabric.connect(server.url) as serving:
            worker = Worker(serving.transport, agent)
            await worker.start()
            monkeypatch.setenv("FABRIC_NATS_URL", server.url)
            async with Fabric.connect() as fabric:
                assert await fabric.agent("greeter").call("greet", {"who": "Zoë"}) == "Hello, Zoë!"
            assert not fabric.transport.connected
            with pytest.raises(TransportUnavailable):
                await fabric.transport.flush()
            await worker.drain()
        assert not serving.transport.connected


async def test_a_client_over_a_transport_leaves_it_open(bus: MemoryTransport) -> None:
    async with Fabric.over(bus):
        pass
    assert bus.connected


async def test_within_the_process_a_value_is_handed_over_as_it_is(bus: MemoryTransport, fabric: Fabric) -> None:
    agent, kept = Agent("keeper"), list[Any]()

    @agent.tool
    async def keep(value: dict[str, Any]) -> dict[str, Any]:
        kept.append({"large": "context"})
        return kept[-1]

    worker = Worker(bus, agent)
    await worker.start()
    assert await fabric.agent("keeper").call("keep", {"value": {}}) is kept[0]
    await worker.drain()
