"""Streams between a client and a handler, on every transport. Proves: PT-4."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from support.transports import broker_of
from support.waiting import Ear, eventually

from fabric_sdk import Agent, Context, Fabric, Stream, ToolError
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.patterns import call as calling
from fabric_sdk.patterns import stream as streaming
from fabric_sdk.patterns.call import Call
from fabric_sdk.pipeline import Handler, Request
from fabric_sdk.routing.window import WINDOW, WINDOW_BYTES
from fabric_sdk.worker import Limits, Worker
from tests.contract.conftest import Stage, settled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

MANY = 3 * WINDOW
"""More messages than can be on their way at once."""

_numbers = count()


@pytest.fixture
def name() -> str:
    return f"stream-{next(_numbers)}"


class Handled:
    """What became of one handler."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.sent = 0
        self.got: list[Any] = []
        self.cancelled: bool | None = None
        self.raised: BaseException | None = None

    async def note(self, context: Context, doing: Any) -> None:
        """Do it, and keep how it ended."""
        self.begun.set()
        try:
            await doing
        except BaseException as failure:
            self.raised, self.cancelled = failure, context.cancelled
            raise
        finally:
            self.ended.set()

    async def read(self, stream: Stream) -> None:
        async for message in stream:
            self.got.append(message)

    async def flood(self, stream: Stream, value: Any = None) -> None:
        for number in count():
            await stream.send(number if value is None else value)
            self.sent += 1


def keeping(name: str) -> tuple[Agent, Handled]:
    """An agent with a stream for each of the usual ways to behave, and what became of its last handler."""
    agent, handled = Agent(name), Handled()

    @agent.stream
    async def read(stream: Stream, context: Context) -> None:
        await handled.note(context, handled.read(stream))

    @agent.stream
    async def flood(stream: Stream, context: Context) -> None:
        await handled.note(context, handled.flood(stream, stream.arguments.get("value")))

    @agent.stream
    async def wait(stream: Stream, context: Context) -> None:
        await handled.note(context, asyncio.Event().wait())

    return agent, handled


def streams_of(worker: Worker) -> int:
    return len(worker._streams)  # pyright: ignore[reportPrivateUsage]


async def blocked(handled: Handled) -> int:
    """How many messages a handler has sent, once it sends no more though it would."""
    before = -1
    while before != handled.sent or not before:
        before = handled.sent
        await asyncio.sleep(0.1)
    return before


# Both ways


async def test_both_directions_at_once_in_order_and_complete(stage: Stage, name: str) -> None:
    agent, got = Agent(name), list[int]()

    @agent.stream
    async def both(stream: Stream) -> None:
        async def send() -> None:
            for number in range(MANY):
                await stream.send({"from": "handler", "number": number})

        sending = asyncio.create_task(send())
        got.extend([message async for message in stream])
        await sending

    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("both") as stream:

        async def send() -> None:
            for number in range(MANY):
                await stream.send(number)
            await stream.end()

        sending = asyncio.create_task(send())
        assert [message["number"] async for message in stream] == list(range(MANY))
        await sending
    assert got == list(range(MANY))


async def test_the_handler_sees_what_it_was_opened_with_and_by_whom(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.stream
    async def show(stream: Stream, context: Context) -> None:
        await stream.send([stream.id, stream.arguments, context.agent, context.instance, context.cancelled])

    worker = await stage.serve(agent)
    async with (await stage.client()).agent(name).open("show", {"depth": [1, None]}) as stream:
        assert [message async for message in stream] == [
            [stream.id, {"depth": [1, None]}, name, worker.instance, False]
        ]


@pytest.mark.parametrize("value", ["", 0, -1.5, True, None, [], {}, {"é": ["漢", None]}, "x" * 200_000])
async def test_a_value_is_the_same_over_every_transport(stage: Stage, name: str, value: Any) -> None:
    agent = Agent(name)

    @agent.stream
    async def echo(stream: Stream) -> None:
        async for message in stream:
            await stream.send(message)

    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("echo") as stream:
        await stream.send(value)
        assert await anext(stream) == value


async def test_two_hundred_streams_at_once_do_not_mix(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.stream
    async def echo(stream: Stream) -> None:
        async for message in stream:
            await stream.send([stream.arguments["number"], message])

    workers = [await stage.serve(agent), await stage.serve(agent)]
    client = (await stage.client()).agent(name)
    there = asyncio.Barrier(200)

    async def talk(number: int) -> list[Any]:
        async with client.open("echo", {"number": number}) as stream:
            await there.wait()
            for turn in range(20):
                await stream.send(turn)
            await stream.end()
            return [message async for message in stream]

    said = await asyncio.gather(*(talk(number) for number in range(200)))
    assert said == [[[number, turn] for turn in range(20)] for number in range(200)]
    await eventually(lambda: not sum(map(streams_of, workers)), what="the end of all handlers")


async def test_whoever_is_cancelled_while_it_sends_or_reads_has_lost_and_repeated_nothing(
    stage: Stage, name: str
) -> None:
    agent = Agent(name)

    @agent.stream
    async def echo(stream: Stream) -> None:
        async for message in stream:
            await stream.send(message)

    async def impatient(doing: Any) -> Any:
        task: asyncio.Future[Any] = asyncio.ensure_future(doing)
        await asyncio.sleep(0)
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("echo") as stream:
        got, sent, cancelled = list[int](), 0, 0
        while len(got) < MANY:
            for doing in (stream.send(sent), anext(stream)):
                outcome = await impatient(doing)
                if isinstance(outcome, asyncio.CancelledError):
                    cancelled += 1
                elif outcome is None:
                    sent += 1
                else:
                    got.append(outcome)
    assert got == list(range(MANY))
    assert cancelled > MANY // 128


# The end of one direction


async def test_a_client_that_ends_its_direction_still_reads(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.stream
    async def total(stream: Stream) -> None:
        numbers = [message async for message in stream]
        for number in (len(numbers), sum(numbers)):
            await stream.send(number)

    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("total") as stream:
        for number in range(1000):
            await stream.send(number)
        await stream.end()
        await stream.end()
        with pytest.raises(errors.StreamClosed, match="ended by this end"):
            await stream.send(1)
        assert [message async for message in stream] == [1000, 499500]
        assert [message async for message in stream] == []


async def test_a_handler_that_ends_its_direction_still_reads(stage: Stage, name: str) -> None:
    agent, handled = Agent(name), Handled()

    @agent.stream
    async def greet(stream: Stream, context: Context) -> None:
        await stream.send("hello")
        await stream.end()
        await handled.note(context, handled.read(stream))

    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("greet") as stream:
        assert [message async for message in stream] == ["hello"]
        for number in range(MANY):
            await stream.send(number)
        await stream.end()
        await handled.ended.wait()
    assert handled.got == list(range(MANY))


async def test_a_handler_that_returns_while_the_client_sends(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.stream
    async def first(stream: Stream) -> None:
        await stream.send(await anext(stream))

    worker = await stage.serve(agent)
    async with (await stage.client()).agent(name).open("first") as stream:
        with pytest.raises(errors.StreamClosed, match="reads no more"):
            await Handled().flood(stream)
        assert [message async for message in stream] == [0]
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


# Giving it up


@pytest.mark.parametrize("stream_name", ["read", "flood", "wait"])
@pytest.mark.parametrize("leaving", ["early", "with an exception", "cancelled", "cancelling"])
async def test_a_client_that_leaves_ends_the_handler(stage: Stage, name: str, stream_name: str, leaving: str) -> None:
    agent, handled = keeping(name)
    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)

    async def talk() -> None:
        async with client.open(stream_name) as stream:
            await handled.begun.wait()
            if leaving == "with an exception":
                raise KeyError("mine")
            if leaving == "cancelled":
                await asyncio.Event().wait()
            if leaving == "cancelling":
                await stream.cancel()
                with pytest.raises(errors.CallCancelled):
                    await stream.send(1)

    talking = asyncio.create_task(talk())
    await handled.begun.wait()
    if leaving == "cancelled":
        await asyncio.sleep(0)
        talking.cancel()
    [outcome] = await asyncio.gather(talking, return_exceptions=True)
    expected = {"with an exception": KeyError, "cancelled": asyncio.CancelledError}.get(leaving)
    assert type(outcome) is (expected or type(None))
    await handled.ended.wait()
    if stream_name != "read" or leaving in ("with an exception", "cancelled"):
        assert isinstance(handled.raised, asyncio.CancelledError)
        assert handled.cancelled
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


async def test_a_client_that_leaves_without_reading_what_a_handler_said_last_keeps_nobody(
    stage: Stage, name: str
) -> None:
    agent, handled = Agent(name), Handled()

    @agent.stream
    async def say(stream: Stream, context: Context) -> None:
        await handled.note(context, stream.send("something"))

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    for _ in range(20):
        async with client.open("say"):
            pass
    began = time.monotonic()
    await stage.stop(worker)
    assert time.monotonic() - began < 3, "no stream is left that waits for its client"


async def test_a_handler_may_give_the_stream_up(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.stream
    async def refuse(stream: Stream) -> None:
        await stream.send("no")
        await stream.cancel()

    await stage.serve(agent)
    client = Handled()
    async with (await stage.client()).agent(name).open("refuse") as stream:
        with pytest.raises(errors.CallCancelled, match="the other end cancelled"):
            await client.read(stream)
    assert client.got == ["no"]


async def test_a_client_cancelled_while_it_opens_leaves_no_handler(stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    opened = asyncio.Event()

    def answer_never(handler: Handler) -> Handler:
        async def handle(context: Context, request: Request) -> Body:
            answer = await handler(context, request)
            if request.method == "streams/open":
                opened.set()
                await asyncio.Event().wait()
            return answer

        return handle

    worker = await stage.serve(agent, middleware=(answer_never,))
    client = (await stage.client()).agent(name)

    async def talk() -> None:
        async with client.open("wait"):
            pytest.fail("it was never answered")

    talking = asyncio.create_task(talk())
    await opened.wait()
    await handled.begun.wait()
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    await handled.ended.wait()
    assert handled.cancelled
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


# What goes wrong in a handler


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (KeyError("missing"), errors.HandlerFailed, "KeyError: 'missing'"),
        (ToolError("the cupboard is bare"), errors.FabricError, "the cupboard is bare"),
        (errors.InvalidParams("no such depth", data={"depth": 3}), errors.InvalidParams, "no such depth"),
        (errors.AgentUnavailable("somebody else's"), errors.HandlerFailed, "somebody else's"),
        (SystemExit(3), errors.HandlerFailed, "SystemExit: 3"),
        (asyncio.CancelledError(), errors.HandlerFailed, "cancelled itself"),
        (errors.InvalidParams("unsayable", data={1, 2}), errors.InvalidParams, "unsayable"),
        (errors.InvalidParams("long" * 500_000), errors.InvalidParams, "longlong"),
    ],
    ids=["error", "tool", "own", "other's", "exit", "cancelled", "unsayable", "long"],
)
async def test_a_client_reads_what_was_sent_and_then_what_the_handler_raised(
    stage: Stage, name: str, failure: BaseException, kind: type[errors.FabricError], words: str
) -> None:
    agent, here = Agent(name), Handled()

    @agent.stream
    async def fail(stream: Stream) -> None:
        for number in range(3):
            await stream.send(number)
        raise failure

    worker = await stage.serve(agent)
    client = (await stage.client()).agent(name)
    async with client.open("fail") as stream:
        with pytest.raises(kind, match=words) as raised:
            await here.read(stream)
    assert here.got == [0, 1, 2]
    if isinstance(failure, errors.InvalidParams) and "depth" in words:
        assert raised.value.data == {"depth": 3}
    assert (await client.describe()).name == name, "the worker lives"
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


async def test_a_handler_that_swallows_its_cancellation_is_over_when_it_returns(stage: Stage, name: str) -> None:
    agent, handled = Agent(name), Handled()

    @agent.stream
    async def stay(stream: Stream, context: Context) -> None:
        with suppress(asyncio.CancelledError):
            await handled.note(context, asyncio.Event().wait())

    worker = await stage.serve(agent)
    async with (await stage.client()).agent(name).open("stay"):
        await handled.begun.wait()
    await handled.ended.wait()
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


# Opening


async def test_what_cannot_be_opened_is_refused_in_words(stage: Stage, name: str) -> None:
    worker = await stage.serve(keeping(name)[0])
    client = await stage.client()
    with pytest.raises(errors.InvalidParams, match=f"agent '{name}' has no stream 'absent'"):
        async with client.agent(name).open("absent"):
            pass
    good: dict[str, Any] = {"name": "read", "stream": uuid4().hex}
    malformed: tuple[Any, ...] = (
        None,
        [good],
        "read",
        {},
        {"name": "read"},
        {**good, "stream": ""},
        {**good, "stream": "a.b"},
        {**good, "stream": "*"},
        {**good, "stream": None, "name": "x.>"},
        {**good, "stream": "s" * 1000},
        {**good, "arguments": [1]},
        {**good, "arguments": [["a", 1]]},
        {**good, "arguments": "text"},
        {**good, "name": ["read"]},
    )
    for params in malformed:
        with pytest.raises(errors.InvalidParams):
            await client.caller.call(Call(name, "streams/open", Body(params), scope_for(5)))
    assert streams_of(worker) == 0


async def test_a_message_cannot_run_a_handler_by_itself(stage: Stage, name: str) -> None:
    await stage.serve(keeping(name)[0])
    client = await stage.client()
    with pytest.raises(errors.UnknownMethod):
        await client.caller.call(Call(name, "streams/run", Body({"name": "read", "stream": {}}), scope_for(5)))


async def test_no_more_streams_than_a_worker_takes(stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.1)
    worker = await stage.serve(keeping(name)[0], limits=Limits(streams=3))
    client = (await stage.client()).agent(name)
    release, opened, refused = asyncio.Event(), list[None](), list[str]()

    async def talk() -> None:
        try:
            async with client.open("wait"):
                opened.append(None)
                await release.wait()
        except errors.Overloaded as full:
            refused.append(str(full))

    talking = [asyncio.create_task(talk()) for _ in range(10)]
    await eventually(lambda: len(opened) + len(refused) == 10, what="an answer for each")
    assert len(opened) == streams_of(worker) == 3
    assert set(refused) == {"this instance has 3 streams open already"}
    release.set()
    await asyncio.gather(*talking)
    await eventually(lambda: not streams_of(worker), what="room for more")
    async with client.open("read") as stream:
        await stream.send(1)


# Values that cannot be sent


async def test_a_value_without_a_json_form_costs_the_stream_nothing(stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("read") as stream:
        await stream.send(1)
        for value in (object(), {1, 2}, {"a": [b"bytes"]}, 1 << 70, {1: "a"}):
            with pytest.raises(errors.InvalidParams, match="no JSON form"):
                await stream.send(value)
        await stream.send(2)
        await stream.end()
        await handled.ended.wait()
    assert handled.got == [1, 2]


async def test_a_value_that_is_too_large_costs_the_stream_nothing(nats_stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    await nats_stage.serve(agent)
    client = await nats_stage.client()
    most = client.transport.max_message
    async with client.agent(name).open("read") as stream:
        with pytest.raises(errors.MessageTooLarge, match=f"NATS takes {most}"):
            await stream.send("x" * (most - 1))
        await stream.send("x" * (most - 2))
        await stream.end()
        await handled.ended.wait()
    assert [len(each) for each in handled.got] == [most - 2]


# Backpressure


async def test_a_reader_that_stops_stops_its_sender_and_loses_nothing(stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("flood") as stream:
        assert await blocked(handled) == WINDOW
        got = [await anext(stream) for _ in range(MANY)]
        assert got == list(range(MANY))
        await blocked(handled)
        assert handled.sent <= MANY + WINDOW


async def test_large_messages_count_by_their_bytes(stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    await stage.serve(agent)
    value = "x" * 500_000
    most = -(-WINDOW_BYTES // (len(value) + 2))
    async with (await stage.client()).agent(name).open("flood", {"value": value}) as stream:
        assert await blocked(handled) == most
        for _ in range(3 * most):
            assert await anext(stream) == value
        assert await blocked(handled) <= 4 * most


async def test_a_handler_that_stops_reading_stops_the_client(stage: Stage, name: str) -> None:
    agent, go = Agent(name), asyncio.Event()
    got: list[int] = []

    @agent.stream
    async def late(stream: Stream) -> None:
        await go.wait()
        got.extend([message async for message in stream])

    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("late") as stream:
        client = Handled()
        sending = asyncio.create_task(client.flood(stream))
        assert await blocked(client) == WINDOW
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        go.set()
        for number in range(WINDOW, MANY):
            await stream.send(number)
        await stream.end()
        assert [message async for message in stream] == []
    assert got == list(range(MANY))


# A worker that is stopped


async def test_a_worker_that_is_stopped_lets_its_streams_end(stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    worker = await stage.serve(agent)
    async with (await stage.client()).agent(name).open("read") as stream:
        await handled.begun.wait()
        stopping = asyncio.create_task(stage.stop(worker))
        for number in range(MANY):
            await stream.send(number)
        await stream.end()
        assert [message async for message in stream] == []
    await asyncio.wait_for(stopping, 5)
    assert handled.got == list(range(MANY))


@pytest.mark.parametrize("stream_name", ["read", "flood", "wait"])
async def test_a_worker_that_is_stopped_for_good_says_so(stage: Stage, name: str, stream_name: str) -> None:
    (agent, handled), here = keeping(name), Handled()
    worker = await stage.serve(agent)
    async with (await stage.client()).agent(name).open(stream_name) as stream:
        await handled.begun.wait()
        await stage.stop(worker, grace=0.05)
        with pytest.raises(errors.WorkerLost, match="stopped before the stream ended"):
            await here.read(stream)
    assert handled.cancelled
    assert here.got == list(range(handled.sent)), "all that it sent before"
    assert streams_of(worker) == 0


async def test_a_worker_that_is_stopped_says_so_also_for_a_handler_that_takes_it_calmly(
    stage: Stage, name: str
) -> None:
    agent, handled = Agent(name), Handled()

    @agent.stream
    async def stay(stream: Stream, context: Context) -> None:
        with suppress(asyncio.CancelledError):
            await handled.note(context, asyncio.Event().wait())

    worker = await stage.serve(agent)
    async with (await stage.client()).agent(name).open("stay") as stream:
        await handled.begun.wait()
        await stage.stop(worker, grace=0.05)
        with pytest.raises(errors.WorkerLost):
            await anext(stream)


# Who falls silent, and who forges


async def test_an_end_that_has_nothing_to_say_is_not_taken_for_gone(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, seconds in (("TICK", 0.05), ("BEAT_SECONDS", 0.1), ("IDLE_SECONDS", 0.5)):
        monkeypatch.setattr(streaming, constant, seconds)
    agent, handled = keeping(name)
    await stage.serve(agent)
    async with (await stage.client()).agent(name).open("read") as stream:
        await handled.begun.wait()
        await asyncio.sleep(1.0)  # twice what it would take
        await stream.send("still there")
        await stream.end()
        await handled.ended.wait()
    assert handled.got == ["still there"]


FORGED = [
    *("", ".", "d", "d.", "d.x", "d.-1", "d.0", "d.1.", "d.\u0661", "d." + "9" * 15, "d." + "9" * 1000, "d.1 d.2"),
    *("e.0", "e.999", "c.0", "c.1", "c.999", "f.0", "f.1", "f.999", "e.x", "z.1", "x", "dd.1", "D.1"),
    *("s", "s.1", "s.1.", "s.x.y", "s.999999.0", "s.999999.999999", "s.0.999999", "s.0.0", "r.0", "r.0.0", "r.0.0.0"),
    *("r.999999.999999", "s." + "9" * 15 + "." + "9" * 15, "s." + "9" * 1000 + ".1"),
]


async def test_forged_frames_do_no_harm(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.stream
    async def echo(stream: Stream) -> None:
        async for message in stream:
            await stream.send(message)

    worker = await stage.serve(agent)
    client, forger = await stage.client(), (await stage.client()).transport

    async def forge(stream_id: str) -> None:
        for reply in FORGED:
            for end in ("worker", "client", "nobody"):
                if "d.1 d.2" in reply and client.transport is not forger:
                    continue  # NATS itself takes it for a malformed line
                await forger.publish(Message(subjects.stream(stream_id, end), Body(encoded=b"{forged"), reply=reply))
        await settled(forger, client.transport)

    async with client.agent(name).open("echo") as stream:
        await forge(uuid4().hex)
        got: list[Any] = []
        for number in range(5):
            await stream.send(number)
            got.append(await anext(stream))
            await forge(stream.id)
        for number in range(5, MANY):
            await stream.send(number)
            got.append(await anext(stream))
        await stream.end()
        got += [message async for message in stream]
    assert got == list(range(MANY))
    await eventually(lambda: not streams_of(worker), what="the end of the stream")


async def test_a_gap_is_asked_for_once_and_not_for_each_frame_behind_it(stage: Stage) -> None:
    transport, stream_id, asked = await stage.bus.connect(), uuid4().hex, Ear()
    channel = streaming.Channel(transport, stream_id, "worker", "client")
    await channel.open()
    await transport.subscribe(subjects.stream(stream_id, "client"), asked)
    for number in range(2, 200):
        await transport.publish(Message(subjects.stream(stream_id, "worker"), Body(number), reply=f"d.{number}"))
    await settled(transport, transport)
    await asked.wait(1)
    assert [message.reply for message in asked.heard] == ["r.0.0"]
    await channel.close()


async def test_a_stream_leaves_nothing_behind(stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    worker, client = await stage.serve(agent), await stage.client()
    both = [client.transport, worker._transport]  # pyright: ignore[reportPrivateUsage]
    transports = [broker_of(each) for each in both]

    def interests() -> int:
        kept: list[Any] = [
            each.__dict__["_interests" if "_interests" in each.__dict__ else "_shelves"] for each in transports
        ]
        return sum(map(len, kept))

    async def talk(stream_name: str) -> None:
        handled.__init__()
        with suppress(KeyError, errors.InvalidParams):
            async with client.agent(name).open(stream_name) as stream:
                await handled.begun.wait()
                await stream.send(1)
                raise KeyError
        await eventually(lambda: not streams_of(worker), what="the end of the stream")

    await talk("read")
    tasks, before = len(asyncio.all_tasks()), interests()
    for stream_name in ("read", "flood", "wait", "absent"):
        await talk(stream_name)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, what="the end of all tasks")
    assert interests() == before


async def test_a_stream_on_a_closed_connection_ends_at_once(nats_stage: Stage, name: str) -> None:
    agent, handled = keeping(name)
    await nats_stage.serve(agent)
    transport = await nats_stage.bus.connect()
    async with Fabric.over(transport) as client, client.agent(name).open("read") as stream:
        await handled.begun.wait()
        await transport.close()
        with pytest.raises(errors.TransportUnavailable, match="closed"):
            await Handled().flood(stream)
