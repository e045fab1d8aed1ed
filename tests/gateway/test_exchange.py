"""One request being answered, with ASGI played by the test: when it becomes a stream, what ends it, what it drops.

Proves: TR-1, SE-6
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.waiting import eventually

from fabric.gateway import http, rpc
from fabric.gateway.http import MOST_WAITING, Bodies, BodyTooLarge, ClientLeft, Exchange, NoRoom, Patrol
from fabric.gateway.replies import Outbox, stream


class Asgi:
    """A server's side of one request: its client leaves, reads slowly, or neither, as the test says."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        await self.reads.wait()
        self.sent.append(event)

    @property
    def kind(self) -> str:
        """The type of content that was announced."""
        return dict(self.sent[0]["headers"])[b"content-type"].decode()

    @property
    def body(self) -> bytes:
        return b"".join(event.get("body", b"") for event in self.sent)


@pytest.fixture
def asgi() -> Asgi:
    return Asgi()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life every few milliseconds instead of seconds."""
    monkeypatch.setattr(http, "PING_SECONDS", 0.01)
    monkeypatch.setattr(http, "WATCH_AFTER", 0.01)


async def test_a_quick_answer_is_one_json_object_and_starts_no_task(asgi: Asgi) -> None:
    before = asyncio.all_tasks()
    exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=True)
    assert asyncio.all_tasks() == before
    await exchange.finish(200, b"{}", rpc.event)
    assert (asgi.kind, asgi.body) == ("application/json", b"{}")
    assert asyncio.all_tasks() == before


async def test_a_long_silent_call_becomes_a_stream_with_signs_of_life(asgi: Asgi, often: None) -> None:
    exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=True)
    await eventually(lambda: asgi.body.count(b": ") >= 3)
    await exchange.finish(200, b'{"id":1}', rpc.event)
    assert asgi.kind == "text/event-stream"
    *signs, answer, rest = asgi.body.split(b"\r\n\r\n")
    assert set(signs) == {b": still working"}
    assert answer == b'event: message\r\ndata: {"id":1}'
    assert rest == b""
    assert not asgi.sent[-1].get("more_body")


async def test_a_client_without_streams_gets_no_signs_of_life(asgi: Asgi, often: None) -> None:
    before = asyncio.all_tasks()
    exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=False)
    exchange.push(b"event")
    await eventually(lambda: asyncio.all_tasks() != before)
    assert len(asyncio.all_tasks() - before) == 1, "one looks out for the client's leaving, none sends"
    assert not asgi.sent
    await exchange.finish(400, b"{}", rpc.event)
    assert (asgi.sent[0]["status"], asgi.kind, asgi.body) == (400, "application/json", b"{}")


async def test_events_come_in_order_and_all_before_the_answer(asgi: Asgi) -> None:
    exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=True)
    for number in range(100):
        exchange.push(b"%d " % number)
        if number % 10 == 0:
            await asyncio.sleep(0)
    await exchange.finish(200, b"answer", lambda body: body)
    exchange.push(b"too late")
    await asyncio.sleep(0)
    assert asgi.body == b"".join(b"%d " % number for number in range(100)) + b"answer"


async def test_a_slow_client_costs_bounded_memory_and_loses_the_oldest_events(asgi: Asgi) -> None:
    asgi.reads.clear()
    exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=True)
    exchange.push(b"first ")
    await asyncio.sleep(0)  # what has begun to be sent is beyond recall
    size, many = MOST_WAITING // 16, 100
    for number in range(many):
        exchange.push((b"%d " % number).ljust(size))
    asgi.reads.set()
    await exchange.finish(200, b"answer", lambda body: body)
    *numbers, answer = asgi.body.replace(b"first ", b"").split()
    assert answer == b"answer"
    assert numbers == [b"%d" % number for number in range(many - 16, many)]


@pytest.mark.parametrize("may_stream", [True, False])
async def test_a_client_that_leaves_cancels_the_work(asgi: Asgi, often: None, may_stream: bool) -> None:
    ended = asyncio.Event()

    async def work() -> bool:
        exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=may_stream)
        exchange.push(b"event")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            await exchange.close()
        return exchange.left

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert not ended.is_set()
    asgi.leaves.set()
    async with asyncio.timeout(5):
        assert await working


async def test_an_answer_ends_the_watch_for_the_client(asgi: Asgi, often: None) -> None:
    before = asyncio.all_tasks()
    exchange = Exchange(asgi.receive, asgi.send, Patrol(), may_stream=True)
    exchange.push(b"event")
    await exchange.finish(200, b"{}", rpc.event)
    asgi.leaves.set()
    await eventually(lambda: asyncio.all_tasks() == before)
    assert not exchange.left


def test_an_event_is_one_line_whatever_an_agent_puts_between_its_braces() -> None:
    event = rpc.event(b'{\r\n  "id": 1,\n\r"result": {}\r}')
    assert event.startswith(b"event: message\r\ndata: {")
    assert event.endswith(b"}\r\n\r\n")
    assert event.count(b"\n") == 3


# bodies


async def body_of(*parts: bytes, limit: int, stated: bytes | None = None, leaves: bool = False) -> bytes:
    """What is made of a body in these parts."""
    events: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if leaves:
        events.append({"type": "http.disconnect"})
    else:
        events[-1]["more_body"] = False
    waiting = iter(events)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    return await Bodies(limit).read(receive, stated)


async def test_a_body_is_read_up_to_its_limit_in_one_part_or_many() -> None:
    assert await body_of(b"12345", limit=5) == b"12345"
    assert await body_of(b"1", b"", b"234", b"5", limit=5) == b"12345"
    assert await body_of(b"", limit=5) == b""
    assert await body_of(b"12345", limit=5, stated=b"no number") == b"12345"


@pytest.mark.parametrize("parts", [[b"123456"], [b"12345", b"6"], [b"1", b"2345678", b"9"]])
async def test_a_body_beyond_its_limit_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(BodyTooLarge):
        await body_of(*parts, limit=5)


async def test_a_body_that_is_said_to_be_too_large_is_not_read() -> None:
    with pytest.raises(BodyTooLarge):
        await body_of(b"12345", limit=5, stated=b"6")


async def test_a_body_that_never_ends_is_read_no_further_than_its_limit() -> None:
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    with pytest.raises(BodyTooLarge):
        await Bodies(10_000).read(receive, None)
    assert read <= 12


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_noticed() -> None:
    with pytest.raises(ClientLeft):
        await body_of(b"123", limit=5, leaves=True)
    with pytest.raises(ClientLeft):
        await body_of(limit=5, leaves=True)


async def test_large_bodies_on_their_way_are_bounded_together_and_leave_room_for_small_ones() -> None:
    large, bodies = 1024 * 1024, Bodies(1024 * 1024)
    for _ in range(2):  # what the first ones took is given back
        going_on, reading = asyncio.Event(), list[asyncio.Task[bytes]]()

        async def begin(size: int, end: asyncio.Event = going_on) -> asyncio.Task[bytes]:
            """Read a body of which nothing but an end without bytes is still to come."""
            reading = asyncio.create_task(bodies.read(_in_two_parts(b"x" * size, end), None))
            await asyncio.sleep(0)
            return reading

        while not (last := await begin(large)).done():
            reading.append(last)
        assert isinstance(last.exception(), NoRoom)
        assert 64 <= len(reading) < 80
        reading.append(await begin(50_000))
        reading.pop(0).cancel()
        await asyncio.sleep(0)
        reading.append(await begin(large))
        going_on.set()
        assert {len(body) for body in await asyncio.gather(*reading)} == {large, 50_000}


def _in_two_parts(first: bytes, end: asyncio.Event) -> http.Receive:
    parts = [first]

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": True}
        await end.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


async def test_a_stream_that_cannot_begin_lets_go_of_what_would_fill_it(asgi: Asgi) -> None:
    """Whoever followed the request of another gateway went on, for a client that had nothing of it."""
    outbox, let_go, before = Outbox("stream"), asyncio.Event(), asyncio.all_tasks()

    async def close() -> None:
        let_go.set()

    async def fail(event: Any) -> None:
        raise OSError("nobody reads")

    outbox.on_close = close
    with pytest.raises(OSError, match="nobody reads"):
        await stream(outbox, asgi.receive, fail)
    assert let_go.is_set()
    assert asyncio.all_tasks() == before
