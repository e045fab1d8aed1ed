"""The pull loop goes on by itself, whatever becomes of consumer, connection and server. Proves: MB-2, MB-6."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.nats_server import PrivateNats
from support.waiting import Ear, eventually
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, cancelling
from fabric_sdk.client import Fabric
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import TASKS, Consumer
from fabric_sdk.jetstream import Delivery, JetStream, Pull, pull
from fabric_sdk.transports.memory import MemoryTransport


@pytest.fixture
def ran(agent: Agent) -> list[int]:
    ran: list[int] = []

    @agent.tool
    async def work(n: int) -> int:
        ran.append(n)
        return n

    return ran


async def test_a_consumer_deleted_under_a_worker_is_made_again(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[int]
) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    assert await (await client.start("work", {"n": 1})).result(timeout=10) == 1
    for priority in ("critical", "high", "normal", "low"):
        await fabric.jetstream.request(f"CONSUMER.DELETE.{TASKS.name}.{agent.name}-{priority}")
    tasks = [await client.start("work", {"n": 2}), await client.start("work", {"n": 3}, priority="low")]
    assert [await task.result(timeout=20) for task in tasks] == [2, 3]
    assert sorted(ran) == [1, 2, 3]


async def test_a_worker_that_stumbles_says_so_and_takes_tasks_again(
    fabric: Fabric,
    serve: Serve,
    agent: Agent,
    ran: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    look, stumbled = Pull.look, asyncio.Event()

    async def stumble(self: Pull) -> None:
        if not stumbled.is_set():
            stumbled.set()
            raise KeyError("moon")
        await look(self)

    monkeypatch.setattr(Pull, "look", stumble)
    monkeypatch.setattr(cancelling, "_ANEW_SECONDS", 0.01)
    await serve(agent)
    await asyncio.wait_for(stumbled.wait(), 10)
    assert await (await fabric.agent(agent.name).start("work", {"n": 1})).result(timeout=10) == 1
    assert f"taking tasks of {agent.name} failed" in caplog.text


async def test_what_is_in_hand_when_its_consumer_is_deleted_is_done_again_under_a_higher_token(
    fabric: Fabric, serve: Serve, agent: Agent
) -> None:
    tokens: list[int] = []
    go = asyncio.Event()

    @agent.tool
    async def hold(context: Context) -> str:
        assert context.task is not None
        tokens.append(context.task.token)
        await go.wait()
        return f"{len(tokens)} attempts"

    await serve(agent)
    task = await fabric.agent(agent.name).start("hold", key="k")
    await eventually(lambda: tokens, what="its beginning")
    await fabric.jetstream.request(f"CONSUMER.DELETE.{TASKS.name}.{agent.name}-normal")
    await eventually(lambda: len(tokens) == 2, what="its second beginning")
    go.set()
    assert await task.result(timeout=10) == "2 attempts"
    assert tokens[0] < tokens[1]


async def test_what_was_done_and_not_acknowledged_is_not_done_again_though_its_consumer_is_made_anew(
    fabric: Fabric, serve: Serve, agent: Agent, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge = Delivery.ack

    async def lost(_delivery: Delivery) -> None: ...

    await serve(agent)
    client = fabric.agent(agent.name)
    monkeypatch.setattr(Delivery, "ack", lost)
    task = await client.start("work", {"n": 1})
    assert await task.result(timeout=10) == 1
    monkeypatch.setattr(Delivery, "ack", acknowledge)
    await fabric.jetstream.request(f"CONSUMER.DELETE.{TASKS.name}.{agent.name}-normal")
    assert await (await client.start("work", {"n": 2})).result(timeout=10) == 2
    assert ran == [1, 2]


async def test_a_worker_goes_on_when_its_server_was_killed(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent, ran: list[int]
) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    for n in range(3):
        assert await (await client.start("work", {"n": n})).result(timeout=20) == n
        breakable.kill()
        breakable.start()
    assert await (await client.start("work", {"n": 3})).result(timeout=20) == 3
    assert ran == [0, 1, 2, 3]


async def test_a_worker_goes_on_when_its_server_was_frozen(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, agent: Agent, ran: list[int]
) -> None:
    await serve(agent)
    client = fabric.agent(agent.name)
    assert await (await client.start("work", {"n": 1})).result(timeout=10) == 1
    breakable.freeze()
    starting = asyncio.create_task(client.start("work", {"n": 2}, key="k"))
    await asyncio.sleep(0.5)
    breakable.thaw()
    assert await (await starting).result(timeout=20) == 2
    assert ran == [1, 2]


class Server:
    """JetStream's side of one pull, on the in-process bus: it says only what the test lets it say."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.asked = Ear()
        self.looked = 0
        self.transport = transport

    async def open(self) -> None:
        await self.transport.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", self.asked)
        await self.transport.subscribe("$JS.API.*.INFO.>", self._exists)

    async def say(self, status: str, **headers: str) -> None:
        """End a request, or beat."""
        inbox = self.asked.heard[-1].reply
        known = {"Status": status} | {name.replace("_", "-"): value for name, value in headers.items()}
        await self.transport.publish(Message(inbox, headers=known))

    async def deliver(self, number: int) -> None:
        """Send one message."""
        told = f"$JS.ACK.S.c.1.{number}.{number}.1700000000000000000.0"
        await self.transport.publish(Message(self.asked.heard[-1].reply, Body({"n": number}), reply=told))

    def _exists(self, message: Message) -> None:
        self.looked += 1
        answer = Message(message.reply, Body({"config": {"ack_wait": 7_000_000_000}}))
        self._answering = asyncio.ensure_future(self.transport.publish(answer))


@pytest.fixture
async def pulled(monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Pull, list[Delivery]]:
    monkeypatch.setattr(pull, "_BEAT_SECONDS", 0.02)
    transport, received = MemoryTransport(), list[Delivery]()
    server = Server(transport)
    await server.open()
    pulling = Pull(JetStream(transport), Consumer(TASKS, "c", "x", 15.0), received.append)
    await pulling.open()
    await pulling.ask(5)
    return server, pulling, received


Pulled = tuple[Server, Pull, list[Delivery]]


async def test_each_message_counts_a_request_down(pulled: Pulled) -> None:
    server, pulling, received = pulled
    for number in (1, 2):
        await server.deliver(number)
    assert (pulling.outstanding, [each.sequence for each in received]) == (3, [1, 2])
    assert pulling.ack_wait == 7.0


@pytest.mark.parametrize(
    ("status", "headers", "outstanding", "lost"),
    [
        ("100", {}, 5, False),
        ("408", {"Nats_Pending_Messages": "3"}, 2, False),
        ("404", {}, 0, False),
        ("409", {"Nats_Pending_Messages": "5"}, 0, True),
        ("503", {}, 0, True),
        ("408", {"Nats_Pending_Messages": "99"}, 0, False),
        ("408", {"Nats_Pending_Messages": "x"}, 0, False),
    ],
)
async def test_what_a_status_ends(
    pulled: Pulled, status: str, headers: dict[str, Any], outstanding: int, lost: bool
) -> None:
    server, pulling, _ = pulled
    looked = server.looked
    await server.say(status, **headers)
    assert pulling.outstanding == outstanding
    await pulling.look()
    assert (server.looked > looked) is lost, "a consumer that may be gone is looked for"


async def test_a_server_that_fell_silent_is_asked_again(pulled: Pulled) -> None:
    server, pulling, _ = pulled
    looked = server.looked
    await eventually(lambda: pulling.silent, what="the end of patience")
    await server.say("100")
    assert not pulling.silent, "a beat is a sign of life"
    await eventually(lambda: pulling.silent, what="the end of patience, again")
    await pulling.look()
    assert (pulling.outstanding, server.looked > looked) == (0, True)


async def test_a_message_from_no_consumer_is_dropped(pulled: Pulled) -> None:
    server, pulling, received = pulled
    await pulling.ask(1)
    inbox = server.asked.heard[-1].reply
    for told in ("", "nonsense", "$JS.ACK.S.c.x.y.z.1.0"):
        await server.transport.publish(Message(inbox, Body({}), reply=told))
    await server.deliver(4)
    assert [each.sequence for each in received] == [4]


@pytest.mark.parametrize(
    "told",
    ["$JS.ACK.S.c.3.7.9.1700000000500000000.4", "$JS.ACK.hub.acchash.S.c.3.7.9.1700000000500000000.4.token"],
    ids=["plain", "with a domain"],
)
def test_what_a_delivery_tells_of_itself(told: str) -> None:
    delivery = Delivery(JetStream(MemoryTransport()), Message("x", reply=told))
    assert (delivery.attempt, delivery.sequence, delivery.order, delivery.pending) == (3, 7, 9, 4)
    assert delivery.stored == 1_700_000_000.5
