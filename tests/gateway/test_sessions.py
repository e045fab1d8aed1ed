"""Handshake sessions that no gateway owns: begun at one, used at others, through the death of any.

Proves: TR-1, GW-4, GW-5
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replicas import Replica, until_ready
from support.running import Running
from support.waiting import eventually

from fabric.gateway import errands as errands_module
from fabric.gateway import sessions as sessions_module
from fabric.gateway.admission import Headers
from fabric.gateway.errand import Errand
from fabric.gateway.errands import Errands
from fabric.gateway.http import MOST_WAITING
from fabric.gateway.legacy import Legacy
from fabric.gateway.replies import Outbox, parts_of, place_in, stream_id
from fabric.gateway.rpc import Refusal
from fabric.gateway.sessions import Session as Stored
from fabric.gateway.sessions import Sessions
from fabric.identity.identity import Identity
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import Overloaded, TransportUnavailable, WorkerLost
from gateway.asker import Asker
from gateway.client import Json, refusal
from gateway.handshake import Session, accept


@pytest.fixture
async def urls(three: list[Replica], asker: Asker) -> list[str]:
    return [replica.url for replica in three]


@pytest.fixture
async def session(http: httpx.AsyncClient, urls: list[str], bare_fabric: Running) -> Session:
    """A session that was opened at the first gateway."""
    return await Session.open(http, urls[0], bare_fabric.token)


@pytest.fixture
async def fabric(bare_fabric: Running) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(bare_fabric.nats_url) as fabric:
        yield fabric


def said(message: Json) -> str:
    """The text of a tool's result."""
    return message["result"]["content"][0]["text"]


# state


async def test_a_session_is_used_at_every_gateway(session: Session, urls: list[str]) -> None:
    for url in urls:
        assert said(await session.ask(url, "tools/call", {"name": "asker_echo", "arguments": {"text": url}})) == url


async def test_its_end_is_known_everywhere_and_ends_its_streams(session: Session, urls: list[str]) -> None:
    async with session.listen(urls[1]) as stream:
        await stream.begun()
        assert (await session.http.delete(urls[0], headers=session.lines)).status_code == 200
        assert await stream.rest() == []
    for url in urls:
        assert (await session.post(url, {"id": 1, "method": "ping"})).status_code == 404
        assert (await session.http.delete(url, headers=session.lines)).status_code == 404


async def test_level_and_subscriptions_hold_everywhere(session: Session, urls: list[str]) -> None:
    a, b, c = urls
    assert (await session.ask(a, "ping"))["result"] == {}
    async with session.listen(b) as stream:
        await stream.begun()
        for uri in ("note://asker/one", "note://asker/two"):
            assert (await session.ask(a, "resources/subscribe", {"uri": uri}))["result"] == {}
        await session.ask(c, "resources/unsubscribe", {"uri": "note://asker/one"})
        for uri in ("note://one", "note://two"):
            await session.ask(c, "tools/call", {"name": "asker_touch", "arguments": {"uri": uri}})
        told = await stream.next()
        assert (told["method"], told["params"]["uri"]) == ("notifications/resources/updated", "note://asker/two")
    async with session.listen(c, last="session.0") as again:  # what was said meanwhile, nobody knows
        told = [await again.next() for _ in range(4)]
        assert {"uri": "note://asker/two"} in [each["params"] for each in told]


async def test_changes_at_the_same_time_are_all_kept(session: Session, urls: list[str], fabric: Fabric) -> None:
    wanted = [f"note://asker/{number}" for number in range(30)]
    asking = (
        session.ask(urls[number % 3], "resources/subscribe", {"uri": uri}, number=number)
        for number, uri in enumerate(wanted)
    )
    assert all(answer["result"] == {} for answer in await asyncio.gather(*asking))
    stored = await Sessions(fabric, lambda _: None).find(session.id, "operator")
    assert stored is not None
    assert sorted(stored.uris) == sorted(wanted)


async def test_a_session_has_a_thousand_subscriptions_at_most(
    session: Session, urls: list[str], fabric: Fabric
) -> None:
    sessions = Sessions(fabric, lambda _: None)
    stored = await sessions.find(session.id, "operator")
    assert stored is not None
    many = [f"note://asker/{number}" for number in range(999)]
    await sessions.change(stored, lambda each: setattr(each, "uris", many))
    assert "result" in await session.ask(urls[0], "resources/subscribe", {"uri": "note://asker/one"})
    assert "result" in await session.ask(urls[1], "resources/subscribe", {"uri": "note://asker/one"}), "it has it"
    refused = await session.ask(urls[1], "resources/subscribe", {"uri": "note://asker/two"})
    assert "1000 resources at most" in refused["error"]["message"]


async def test_what_is_kept_of_a_session_is_bounded(session: Session, urls: list[str]) -> None:
    """All sessions are in one stream, which one client must not fill for all others."""
    hello: Json = {"protocolVersion": "2025-11-25", "clientInfo": {"name": "test", "version": "1"}}
    hello["capabilities"] = {"experimental": {"much": {"of": "x" * 10_000}}}
    refused = await session.ask(urls[0], "initialize", hello)
    assert refused["error"]["code"] == -32602
    assert "8192 bytes" in refused["error"]["message"]
    long = f"note://asker/{'x' * 30_000}"
    assert "result" in await session.ask(urls[0], "resources/subscribe", {"uri": long})
    refused = await session.ask(urls[0], "resources/subscribe", {"uri": long.replace("x", "y")})
    assert refused["error"]["code"] == -32602
    assert "32768 characters" in refused["error"]["message"]


async def test_a_principal_has_so_many_sessions_and_the_least_used_makes_room(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "_MOST_OF_ONE", 2)
    ended: list[str] = []
    sessions = Sessions(fabric, ended.append)
    others = await sessions.open("bob", "2025-11-25", {})
    first, second = [await sessions.open("ann", "2025-11-25", {"sampling": {}}) for _ in range(2)]
    assert await sessions.find(first.id, "ann") is first
    third = await sessions.open("ann", "2025-11-25", {})
    assert ended == [second.id]
    assert await Sessions(fabric, lambda _: None).find(second.id, "ann") is None, "for other gateways, too"
    found = [await sessions.find(each.id, each.principal) for each in (first, third, others)]
    assert None not in found


async def test_of_sessions_that_nobody_ends_only_the_last_are_remembered(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "_MOST_HELD", 3)
    sessions = Sessions(fabric, lambda _: None)
    opened = [await sessions.open(f"ann-{number}", "2025-11-25", {}) for number in range(8)]
    held = sessions._of  # pyright: ignore[reportPrivateUsage]
    assert {name: list(ids) for name, ids in held.items()} == {each.principal: [each.id] for each in opened[-3:]}
    assert await sessions.find(opened[0].id, "ann-0") is not None, "and all the others are found"


async def test_a_session_that_cannot_be_ended_now_is_not_a_failure_of_the_gateway(fabric: Fabric) -> None:
    sent: list[dict[str, Any]] = []

    class Away(Sessions):
        async def end(self, session: Stored) -> None:
            raise TransportUnavailable("the broker is away")

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    sessions = Away(fabric, lambda _: None)
    session = await sessions.open("ann", "2025-11-25", {})
    nothing: Any = None
    legacy = Legacy(sessions, nothing, nothing, nothing, nothing, server={})
    await legacy.delete(Headers({b"mcp-session-id": session.id.encode()}), Identity("ann"), cast("Any", send))
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert "the broker is away" in sent[1]["body"].decode()


async def test_to_others_there_is_no_such_session(session: Session, urls: list[str], fabric: Fabric) -> None:
    made = await fabric.agent("access").call("create_token", {"name": f"bob-{uuid4().hex[:8]}"})
    lines = {**session.lines, "authorization": f"Bearer {made['token']}"}
    for url in urls:
        while (response := await session.http.get(url, headers=lines)).status_code == 401:
            pass  # until this gateway knows the key
        refusal(response, 404, -32600)
        refusal(await session.http.delete(url, headers=lines), 404, -32600)
        refusal(await session.post(url, {"id": 1, "method": "ping"}, **lines), 404, -32600)
    assert (await session.ask(urls[0], "ping"))["result"] == {}


async def test_made_up_sessions_are_none_and_leave_nothing(session: Session, urls: list[str], fabric: Fabric) -> None:
    for wrong in ("x", "*", ">", "a.b", session.id.upper(), session.id[:-1], uuid4().hex, "9" * 5000):
        response = await session.post(urls[1], {"id": 1, "method": "ping"}, **{"mcp-session-id": wrong})
        refusal(response, 404, -32600)
    sessions, began = Sessions(fabric, lambda _: None), time.perf_counter()
    for _ in range(200):
        assert await sessions.find(uuid4().hex, "operator") is None
    print(f"a made-up session id costs {(time.perf_counter() - began) / 200 * 1e6:.0f} µs and no memory")
    assert not [each for each in gc.get_objects() if isinstance(each, Stored)]


# streams and questions


async def test_a_stream_is_gone_on_with_elsewhere_and_nothing_comes_twice(session: Session, urls: list[str]) -> None:
    a, b, c = urls
    async with session.call(a, "asker_order", what="hat", number="first") as stream:
        begun = await stream.begun()
        question = await stream.next()
        asked = stream.last
    assert question["method"] == "elicitation/create"
    async with session.listen(b, last=begun) as stream:
        assert await stream.next() == question
        await session.answer(c, question, accept(size=42))
        answer = await stream.next()
        answered = stream.last
        assert await stream.rest() == []
    assert (answer["id"], said(answer)) == ("first", "hat 42")
    for last, rest in ((begun, [question, answer]), (asked, [answer]), (answered, [])):
        async with session.listen(c, last=last) as stream:
            assert await stream.rest() == rest


async def test_the_death_of_a_gateway_costs_no_question(session: Session, three: list[Replica], asker: Asker) -> None:
    (first, b, c), asker.done[:] = three, []
    async with session.call(first.url, "asker_order", what="hat") as stream:
        question, asked = await stream.next(), stream.last
        first.kill()
        with pytest.raises(httpx.TransportError):
            await stream.next()
    try:
        await session.answer(b.url, question, accept(size=42))
        await session.answer(c.url, question, accept(size=43))  # the first one counts
        async with session.listen(c.url, last=asked) as stream:
            assert [said(message) for message in await stream.rest()] == ["hat 42"]
        assert asker.done == ["reserved hat", "ordered hat"]
    finally:
        first.start()
        until_ready([first])


async def test_what_is_asked_next_is_asked_wherever_the_client_is_by_then(
    session: Session, three: list[Replica]
) -> None:
    a, second, c = three
    async with session.call(second.url, "asker_twice") as stream:
        question, asked = await stream.next(), stream.last
    async with session.listen(a.url, last=asked) as stream:
        second.kill()
        try:
            await session.answer(c.url, question, accept(size=1))
            again = await stream.next()
            assert again["id"] != question["id"]
            await session.answer(c.url, question, accept(size=3))  # late, to what was asked before
            await session.answer(a.url, again, accept(size=2))
            answer = await stream.next()
        finally:
            second.start()
            until_ready([second])
    assert answer["result"]["structuredContent"] == {"result": [1, 2]}


async def test_a_plain_call_at_a_gateway_that_dies_ends_with_the_reason(
    session: Session, three: list[Replica], asker: Asker
) -> None:
    a, b, third = three
    asker.held.clear()
    async with session.call(third.url, "asker_hold", number=7) as stream:
        begun = await stream.begun()
        await asker.held.wait()
        async with session.listen(b.url, last=begun) as elsewhere:  # open before it dies, and waiting for it
            third.kill()
            try:
                async with session.listen(a.url, last=begun) as later:
                    for heard in (await later.next(), await elsewhere.next()):
                        assert (heard["id"], heard["error"]["code"]) == (7, WorkerLost.code)
            finally:
                third.start()
                until_ready([third])


async def test_cancelled_is_heard_wherever_the_request_is(session: Session, urls: list[str], asker: Asker) -> None:
    for number in (10**30, "ünd", 8):
        asker.held.clear()
        asker.cancelled.clear()
        async with session.call(urls[0], "asker_hold", number=number) as stream:
            await asker.held.wait()
            cancelled = {"method": "notifications/cancelled", "params": {"requestId": number}}
            assert (await session.post(urls[1], cancelled)).status_code == 202
            await asyncio.wait_for(asker.cancelled.wait(), 5)
            assert not [message for message in await stream.rest() if "id" in message]


async def test_nobody_goes_on_with_what_was_cancelled(session: Session, urls: list[str], asker: Asker) -> None:
    asker.done.clear()
    async with session.call(urls[0], "asker_order", what="hat") as stream:
        begun, question = await stream.begun(), await stream.next()
        await session.post(urls[1], {"method": "notifications/cancelled", "params": {"requestId": 1}})
        assert await stream.rest() == []
    await session.answer(urls[2], question, accept(size=42))
    async with session.listen(urls[1], last=begun) as stream:
        assert [message.get("error", {}).get("code") for message in await stream.rest()] == [None, WorkerLost.code]
    assert asker.done == ["reserved hat"]


@pytest.mark.parametrize("dies", [False, True])
async def test_the_end_of_a_session_ends_what_waits_for_its_answers(
    session: Session, three: list[Replica], asker: Asker, dies: bool
) -> None:
    first, second, _ = three
    asker.cancelled.clear()
    async with session.call(first.url, "asker_order", what="hat") as stream:
        await stream.next()
        assert not asker.cancelled.is_set()
        if dies:
            first.kill()
        try:
            assert (await session.http.delete(second.url, headers=session.lines)).status_code == 200
            await asyncio.wait_for(asker.cancelled.wait(), 5)
        finally:
            if dies:
                first.start()
                until_ready([first])


async def test_what_waits_for_an_answer_is_cancelled_with_its_request(
    session: Session, urls: list[str], asker: Asker
) -> None:
    asker.cancelled.clear()
    async with session.call(urls[0], "asker_order", what="hat") as stream:
        await stream.next()
        await session.post(urls[1], {"method": "notifications/cancelled", "params": {"requestId": 1}})
        await asyncio.wait_for(asker.cancelled.wait(), 5)


async def test_a_gateway_that_is_told_to_stop_sends_its_clients_elsewhere(
    session: Session, three: list[Replica]
) -> None:
    a, b, c = three
    async with session.listen(a.url) as own, session.call(a.url, "asker_order", what="hat") as stream:
        await own.begun()
        question, asked = await stream.next(), stream.last
        began = time.monotonic()
        assert await asyncio.to_thread(a.stop) == 0
        assert (await own.rest(), await stream.rest()) == ([], [])
    try:
        assert time.monotonic() - began < 10
        await session.answer(b.url, question, accept(size=42))
        async with session.listen(c.url, last=asked) as stream:
            assert [said(message) for message in await stream.rest()] == ["hat 42"]
    finally:
        a.start()
        until_ready([a])


MADE_UP = [
    *("", "x", ".", "session", "session.x", "session.-1", "a.b.0", "*.0", "x-y-z.0", "0123456789ab-zz-1.0"),
    *("0123456789ab-7b-1.0", f"session.{'9' * 5000}", "0123456789ab--1.0", "0123456789ab-31-1.²", "all-31-1.0"),
]


@pytest.mark.parametrize("last", MADE_UP, ids=lambda last: last[:20] or "empty")
async def test_an_event_that_was_never_sent_is_refused(session: Session, urls: list[str], last: str) -> None:
    lines = {**session.lines, "accept": "text/event-stream", "last-event-id": last.encode("latin-1")}
    refusal(await session.http.get(urls[0], headers=lines), 400, -32600)  # pyright: ignore[reportArgumentType]


async def test_a_made_up_stream_ends_at_once(session: Session, urls: list[str]) -> None:
    async with session.listen(urls[0], last="0123456789ab-31-1.0") as stream:
        assert [(each["id"], each["error"]["code"]) for each in await stream.rest()] == [(1, WorkerLost.code)]
    async with session.call(urls[1], "asker_order", what="hat") as mine:
        begun, question = await mine.begun(), await mine.next()
        other = await Session.open(session.http, urls[0], session.lines["authorization"].removeprefix("Bearer "))
        await other.answer(urls[2], question, accept(size=1))  # not of its session: to nothing
        async with other.listen(urls[1], last=begun) as stream:
            assert [message["error"]["code"] for message in await stream.rest()] == [WorkerLost.code]
        await session.answer(urls[2], question, accept(size=42))
        assert said(await mine.next()) == "hat 42"


@pytest.mark.parametrize("number", [1, "x", "a.b.c", "0123456789ab-31-1.1.q", "0123456789ab-31-1.x", "*.1.1"])
async def test_an_answer_to_nothing_does_nothing(session: Session, urls: list[str], number: object) -> None:
    await session.answer(urls[0], {"id": number}, accept(size=1))
    assert (await session.ask(urls[0], "ping"))["result"] == {}


# rules


@given(st.lists(st.tuples(st.integers(0, MOST_WAITING // 3), st.booleans()), max_size=30))
def test_a_slow_reader_misses_the_oldest_of_what_may_be_missed_and_nothing_else(sizes: list[tuple[int, bool]]) -> None:
    outbox = Outbox("s")
    messages = [b"%d:" % number + b"x" * size for number, (size, _) in enumerate(sizes)]
    for number, (message, (_, placed)) in enumerate(zip(messages, sizes, strict=True)):
        outbox.push(message, number + 1 if placed else None)
        outbox.push(message, number + 1) if placed else None  # one that has a place comes once
    taken = outbox.take()
    heard = [int(line[6:].partition(b":")[0]) for line in taken.split(b"\r\n") if line.startswith(b"data: ")]
    placed = [number for number, (_, placed) in enumerate(sizes) if placed]
    assert heard == sorted(heard)
    assert [number for number in heard if number in placed] == placed
    assert heard[-1:] == [number for number, _ in enumerate(sizes)][-1:], "the last one is there"
    assert len(taken) <= MOST_WAITING + sum(len(messages[number]) + 100 for number in placed)
    assert outbox.empty


def test_what_is_larger_than_what_may_wait_is_not_lost() -> None:
    """The answer of a handler that said something before, where the broker could not keep it."""
    outbox, answer = Outbox("s"), b"x" * (MOST_WAITING + 1)
    outbox.push(b"progress")
    outbox.push(answer)
    assert answer in outbox.take()


@given(st.binary(min_size=12, max_size=12), st.integers() | st.text(max_size=300), st.integers(0, 10**9))
def test_the_name_of_a_stream_says_whose_it_is(replica: bytes, request: int | str, number: int) -> None:
    written = httpx.Request("POST", "http://x", json=request).content
    name = stream_id(replica.hex()[:12], written, number)
    assert parts_of(name)[0] == replica.hex()[:12]
    assert parts_of(name)[1] in (written, b"null")
    assert place_in(f"{name}.7") == (name, 7)


@given(st.text(max_size=60))
def test_any_other_name_is_refused(text: str) -> None:
    try:
        name, place = place_in(text)
    except ValueError:
        return
    assert name == "session" or parts_of(name)
    assert place >= 0


async def test_one_principal_has_half_of_what_may_be_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request goes on when its client leaves: who asks and leaves, and does so again, had all there was."""

    async def waits(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(errands_module, "_MOST", 4)
    monkeypatch.setattr(Errands, "_run", waits)
    fabric: Any = SimpleNamespace(transport=None)
    gate: Any = SimpleNamespace(audit=SimpleNamespace(calls=False))
    part: Any = None
    errands = Errands(fabric, part, part, gate, part, part)

    def asks(who: str, number: int) -> None:
        session = Stored(id=who, principal=who, version="2025-11-25")
        errands.begin(Errand(session, Identity(who), b"%d" % number, "tools/call", b"{}"))

    for number in range(2):
        asks("ann", number)
    with pytest.raises(Refusal, match="you have 2 requests on their way") as too_many:
        asks("ann", 2)
    for number in range(2):
        asks("bob", number)
    with pytest.raises(Refusal, match="this gateway has too many") as all_full:
        asks("eve", 0)
    assert {too_many.value.code, all_full.value.code} == {Overloaded.code}
    await errands.end()
    await eventually(lambda: len(errands) == 0, what="the end of all")
    asks("ann", 2)
    await errands.end()
