"""Events reach whoever wants them: by wildcard, alone or in groups, filtered and transformed.

Proves: EV-1, EV-2, EV-5, EV-6, MB-1 (to a topic), MB-7 (to each who subscribes to it), PT-5.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import nats
import pytest
from support.events import data, program, publish_all, take
from support.nats_server import PrivateNats
from support.transports import broker_of

from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import InvalidParams, QueueFull
from fabric_sdk.contracts.streams import EVENTS, group_lane
from fabric_sdk.jetstream import Claims, Delivery, reading
from fabric_sdk.patterns.event import interest
from fabric_sdk.routing.expressions import TransformationFailed

pytestmark = pytest.mark.anyio

MEMBER = Path(__file__).with_name("member.py")


async def consumers(fabric: Fabric) -> list[dict[str, Any]]:
    """The configurations of all consumers of events."""
    listed = await fabric.jetstream.request(f"CONSUMER.LIST.{EVENTS.name}")
    return [each["config"] for each in listed["consumers"]]


# topics


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("a", ["a"]),
        ("a.b", ["a.b"]),
        ("a.*", ["a.b", "a.c"]),
        ("*.b", ["a.b", "c.b"]),
        ("a.>", ["a.b", "a.c", "a.b.d"]),
        ("a.*.d", ["a.b.d"]),
        ("*.*", ["a.b", "a.c", "c.b"]),
        ("*.>", ["a.b", "a.c", "c.b", "a.b.d"]),
        (">", ["a", "a.b", "a.c", "c.b", "a.b.d"]),
    ],
)
async def test_topics_with_wildcards(fabric: Fabric, other: Fabric, word: str, pattern: str, heard: list[str]) -> None:
    async with other.subscribe(f"{word}.{pattern}") as events:
        for topic in ("a", "a.b", "a.c", "c.b", "a.b.d", "end-of-test"):
            await fabric.publish(f"{word}.{topic}", topic)
        found = await data(events, len(heard))
    assert found == heard


async def test_several_patterns_at_once(fabric: Fabric, word: str) -> None:
    async with fabric.subscribe(f"{word}.a.*", f"{word}.b") as events:
        for topic in ("a.x", "b", "c", "a.y"):
            await fabric.publish(f"{word}.{topic}", topic)
        assert await data(events, 3) == ["a.x", "b", "a.y"]


@pytest.mark.parametrize(
    "topics",
    [(), ("",), ("a..b",), ("a.>.b",), ("a b",), ("a*",), ("a.*", "a.b"), ("a.>", "*.b"), ("a", "a"), (">", "x")],
)
async def test_topics_that_are_none_are_refused(fabric: Fabric, topics: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParams):
        fabric.subscribe(*topics)


async def test_a_subscriber_hears_what_is_published_from_then_on_each_once(fabric: Fabric, word: str) -> None:
    await fabric.publish(f"{word}.a", "before")
    async with fabric.subscribe(f"{word}.>") as one, fabric.subscribe(f"{word}.>") as two:
        await publish_all(fabric, f"{word}.a", range(3000))
        assert await data(one, 3000) == list(range(3000))
        assert await data(two, 3000) == list(range(3000))


async def test_a_subscriber_that_leaves_leaves_nothing_behind(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as fabric:
        for _ in range(3):
            await fabric.publish("a", 1)
            async with fabric.replay("a") as events:
                await anext(events)
            async with fabric.subscribe("a"):
                pass
        async with asyncio.timeout(10):
            while await consumers(fabric):  # noqa: ASYNC110 - the server says nothing when it has forgotten one
                await asyncio.sleep(0.02)


async def test_a_subscriber_begins_with_one_question_to_the_server(
    fabric: Fabric, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish_all(fabric, f"{word}.a", range(5))
    asked: list[str] = []
    publish = fabric.transport.publish

    async def publish_and_note(message: Message) -> None:
        asked.append(message.subject)
        await publish(message)

    monkeypatch.setattr(fabric.transport, "publish", publish_and_note)
    async with fabric.replay(f"{word}.a") as events:
        assert [event.data async for event in events] == list(range(5))
    begun = [subject.split(".")[2:4] for subject in asked if subject.startswith("$JS.API.")]
    assert begun == [["CONSUMER", "CREATE"], ["CONSUMER", "MSG"], ["CONSUMER", "DELETE"]]


async def test_a_subscriber_that_does_not_read_holds_little(
    fabric: Fabric, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Delivery] = []

    class Counted(reading.Reader):
        def _take(self, delivery: Delivery) -> None:
            handed.append(delivery)
            super()._take(delivery)

    monkeypatch.setattr("fabric_sdk.patterns.event.Reader", Counted)
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 100_000)
    async with fabric.subscribe(f"{word}.a", start="all") as events:
        await publish_all(fabric, f"{word}.a", [f"{number:01000}" for number in range(3000)])
        assert await data(events, 1) == [f"{0:01000}"]
        await asyncio.sleep(0.3)  # time in which it could take more
        assert len(handed) <= 130
        rest = await data(events, 2999)
    assert rest == [f"{number:01000}" for number in range(1, 3000)]


# groups


async def test_a_group_shares_its_events(fabric: Fabric, other: Fabric, word: str) -> None:
    seen: dict[str, list[int]] = {"one": [], "two": []}
    done = asyncio.Event()

    async def member(client: Fabric, name: str) -> None:
        async with client.subscribe(f"{word}.a", group=word, start="all") as events:
            async for event in events:
                seen[name].append(event.data)
                await asyncio.sleep(0)
                if sum(map(len, seen.values())) >= 400:
                    await event.ack()
                    done.set()

    async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        members = [tasks.create_task(member(fabric, "one")), tasks.create_task(member(other, "two"))]
        await publish_all(fabric, f"{word}.a", range(400))
        await done.wait()
        for each in members:
            each.cancel()
    assert sorted(seen["one"] + seen["two"]) == list(range(400))
    assert seen["one"]
    assert seen["two"]


async def test_a_slow_member_leaves_events_to_others(fabric: Fabric, other: Fabric, word: str) -> None:
    await publish_all(fabric, f"{word}.a", range(40))
    async with fabric.subscribe(f"{word}.a", group=word, start="all") as slow:
        held = (await data(slow, 1))[0]
        async with other.subscribe(f"{word}.a", group=word) as quick:
            found = await data(quick, 36)
    assert held not in found


async def test_what_waits_behind_an_event_that_takes_long_goes_to_others(
    fabric: Fabric, other: Fabric, word: str
) -> None:
    lane = group_lane(word, (f"{word}.a",), {"deliver_policy": "all"})
    await fabric.jetstream.ensure_consumer(replace(lane, ack_wait=0.9))
    await publish_all(fabric, f"{word}.a", range(100))
    async with fabric.subscribe(f"{word}.a", group=word) as slow:
        begun = await data(slow, 20)  # so quickly that it is given more at once
        async with other.subscribe(f"{word}.a", group=word) as quick:
            rest = await data(quick, 80)
    assert sorted(begun + rest) == list(range(100))


async def test_a_large_event_stays_with_the_member_that_fetches_it(
    fabric: Fabric, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = replace(group_lane(word, (f"{word}.a",), {"deliver_policy": "all"}), ack_wait=0.6)
    await fabric.jetstream.ensure_consumer(lane)
    large, redeem, extend, extended = "x" * 1_500_000, Claims.redeem, Delivery.extend, list[int]()
    long_enough = asyncio.Event()

    async def extend_and_count(delivery: Delivery) -> None:
        await extend(delivery)
        extended.append(delivery.attempt)
        if len(extended) == 5:  # by then, it would have been given to somebody else
            long_enough.set()

    async def redeem_slowly(claims: Claims, claim: str) -> Body:
        await long_enough.wait()
        return await redeem(claims, claim)

    monkeypatch.setattr(Delivery, "extend", extend_and_count)
    monkeypatch.setattr(Claims, "redeem", redeem_slowly)
    await fabric.publish(f"{word}.a", large)
    async with fabric.subscribe(f"{word}.a", group=word) as events:
        assert await data(events, 1) == [large]
        info = await fabric.jetstream.request(f"CONSUMER.INFO.{EVENTS.name}.group-{word}")
        assert (info["num_redelivered"], set(extended)) == (0, {1})


async def test_a_large_event_whose_member_leaves_while_it_fetches_it_goes_to_others_at_once(
    fabric: Fabric, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = asyncio.Event()

    async def hang(_claims: Claims, _claim: str) -> Body:
        fetching.set()
        return await asyncio.Future[Body]()

    await fabric.publish(f"{word}.a", "x" * 1_500_000)
    with monkeypatch.context() as patched:
        patched.setattr(Claims, "redeem", hang)
        async with fabric.subscribe(f"{word}.a", group=word, start="all") as events:
            taking = asyncio.create_task(take(events, 1))
            await fetching.wait()
            taking.cancel()
            await asyncio.wait([taking])
    async with fabric.subscribe(f"{word}.a", group=word) as events:
        assert await data(events, 1, seconds=10) == ["x" * 1_500_000]


async def test_two_groups_get_all_each_and_outlive_their_members(fabric: Fabric, other: Fabric, word: str) -> None:
    for group in (f"{word}-1", f"{word}-2"):
        async with fabric.subscribe(f"{word}.a", group=group):
            pass
    await publish_all(fabric, f"{word}.a", range(10))
    for group in (f"{word}-1", f"{word}-2"):
        async with other.subscribe(f"{word}.a", group=group) as events:
            assert await data(events, 5) == list(range(5))
        async with fabric.subscribe(f"{word}.a", group=group) as events:  # 4 was held when its member left
            assert await data(events, 6) == list(range(4, 10))


async def test_asking_for_the_next_acknowledges_and_leaving_gives_back(fabric: Fabric, word: str) -> None:
    async with fabric.subscribe(f"{word}.a", group=word) as events:
        await publish_all(fabric, f"{word}.a", ["first", "second", "third"])
        assert await data(events, 2) == ["first", "second"]
    async with fabric.subscribe(f"{word}.a", group=word) as events:
        event = await anext(events)
        assert event.data == "second"
        await event.ack()
    async with fabric.subscribe(f"{word}.a", group=word) as events:
        event = await anext(events)
        assert event.data == "third"
        await event.nak(0.2)
        assert (await take(events, 1))[0].data == "third"


async def test_the_events_of_a_killed_member_go_to_others(keeping: PrivateNats, fabric: Fabric, word: str) -> None:
    lane = replace(group_lane(word, (f"{word}.a",), {"deliver_policy": "all"}), ack_wait=1.0)
    await fabric.jetstream.ensure_consumer(lane)
    with program(MEMBER, keeping.url, word, f"{word}.a") as member:
        assert await member.says() == "ready"
        await publish_all(fabric, f"{word}.a", range(20))
        held = int(await member.says())
        await asyncio.sleep(1.5)  # longer than an event may be held in silence: the member says that it lives
        async with fabric.subscribe(f"{word}.a", group=word) as events:
            found = await data(events, 10)
            assert held not in found
            member.kill()
            found += await data(events, 10)
    assert sorted(found) == list(range(20))


async def test_a_group_gets_the_topics_of_its_latest_member(fabric: Fabric, word: str) -> None:
    async with fabric.subscribe(f"{word}.a", group=word):
        pass
    async with fabric.subscribe(f"{word}.b", f"{word}.c.*", group=word) as events:
        for topic in ("a", "b", "c.x"):
            await fabric.publish(f"{word}.{topic}", topic)
        assert await data(events, 2) == ["b", "c.x"]


# filters and transformations


async def test_filters_are_applied_by_the_broker_where_they_are_topics(fabric: Fabric, word: str) -> None:
    async with (
        fabric.subscribe(f"{word}.a", f"{word}.b.*"),
        fabric.subscribe(f"{word}.>", group=word),
    ):
        wanted = [each.get("filter_subjects") for each in await consumers(fabric)]
    assert [f"fab.event.{word}.a", f"fab.event.{word}.b.*"] in wanted
    assert [f"fab.event.{word}.>"] in wanted


async def test_a_filter_lets_through_only_what_it_is_true_for(fabric: Fabric, word: str) -> None:
    values: list[Any] = [{"n": 5}, {}, {"n": "x"}, {"n": 0}, None, [], 7, {"n": 20}, {"n": None}, {"n": 1}]
    async with fabric.subscribe(f"{word}.a", filter="100 / data.n > 10") as events:
        await publish_all(fabric, f"{word}.a", values)
        assert await data(events, 2) == [{"n": 5}, {"n": 1}]


async def test_a_group_passes_over_what_its_filter_refuses(fabric: Fabric, word: str) -> None:
    async with fabric.subscribe(f"{word}.a", group=word, filter="data % 2 == 0") as events:
        await publish_all(fabric, f"{word}.a", range(10))
        assert await data(events, 5) == [0, 2, 4, 6, 8]
    info = await fabric.jetstream.request(f"CONSUMER.INFO.{EVENTS.name}.group-{word}")
    assert info["num_pending"] == 0
    assert info["num_ack_pending"] <= 2


async def test_what_is_no_expression_is_refused_at_once(fabric: Fabric) -> None:
    for wrong in ("data.(", "data ==", "1 +" * 2000):
        with pytest.raises(InvalidParams):
            fabric.subscribe("a", filter=wrong)
        with pytest.raises(InvalidParams):
            fabric.replay("a", transform=wrong)


async def test_a_subscriber_sees_what_its_transformation_makes(fabric: Fabric, word: str) -> None:
    to = "{'order': data.id, 'topic': event.topic, 'of': event.subject, 'gross': data.net * 1.5}"
    async with fabric.subscribe(f"{word}.a", transform=to) as events:
        await fabric.publish(f"{word}.a", {"id": 7, "net": 2.0, "secret": "s"}, subject="order/7")
        await fabric.publish(f"{word}.a", {"id": 8})
        fits, misfit = await take(events, 2)
    assert fits.data == {"order": 7, "topic": f"{word}.a", "of": "order/7", "gross": 3.0}
    with pytest.raises(TransformationFailed, match=misfit.id):
        _ = misfit.data


# what others publish


async def test_what_others_publish_stops_nobody(keeping: PrivateNats, fabric: Fabric, word: str) -> None:
    client = await cast("Any", nats).connect(keeping.url)
    subject = f"fab.event.{word}.a"
    async with (
        fabric.subscribe(f"{word}.>") as reader,
        fabric.subscribe(f"{word}.>", group=word) as member,
    ):
        await client.publish(subject, b"no JSON")
        await client.publish(subject, b"\xff\xfe", headers={"Status": "503"})
        await client.publish(subject, b'{"plain": true}')
        await client.publish(subject, b"")
        await client.publish(subject, b'"last"', headers={"ce-id": "%C3%A9", "ce-type": "org.x", "ce-time": "x"})
        await client.flush()
        for events in (reader, member):
            plain, empty, last = await take(events, 3)
            assert (plain.data, plain.source, plain.topic, plain.type) == (
                {"plain": True},
                "/",
                f"{word}.a",
                f"{word}.a",
            )
            assert plain.id == str(plain.sequence)
            assert plain.time.startswith("20")
            assert (empty.data, last.data, last.id, last.type) == (None, "last", "é", "org.x")
    await client.close()


async def test_others_read_what_is_published_here(keeping: PrivateNats, fabric: Fabric, word: str) -> None:
    client = await cast("Any", nats).connect(keeping.url)
    heard = await client.subscribe(f"fab.event.{word}.>")
    await client.flush()
    event = await fabric.publish(f"{word}.a", {"n": 1}, subject="é")
    message = await heard.next_msg(timeout=10)
    await client.close()
    assert (message.subject, message.data) == (f"fab.event.{word}.a", b'{"n":1}')
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": "/clients",
        "ce-type": f"{word}.a",
        "ce-time": event.time,
        "ce-datacontenttype": "application/json",
        "ce-subject": "%C3%A9",
        "Nats-Msg-Id": f"{word}.a /clients {event.id}",
    }


async def test_a_reader_and_a_group_outlive_the_loss_of_their_place_on_the_server(fabric: Fabric, word: str) -> None:
    async with (
        fabric.subscribe(f"{word}.a") as reader,
        fabric.subscribe(f"{word}.a", group=word, start="all") as member,
    ):
        await publish_all(fabric, f"{word}.a", [1])
        assert await data(reader, 1) == await data(member, 1) == [1]
        listed = await fabric.jetstream.request(f"CONSUMER.LIST.{EVENTS.name}")
        for each in listed["consumers"]:
            if any(word in wanted for wanted in each["config"].get("filter_subjects", ())):
                await fabric.jetstream.request(f"CONSUMER.DELETE.{EVENTS.name}.{each['name']}")
        await publish_all(fabric, f"{word}.a", [2, 3])
        assert await data(reader, 2) == [2, 3]
        assert await data(member, 3) == [1, 2, 3], "a new place, as its first member would make it"


async def test_a_message_that_is_no_text_stops_nobody(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as fabric:
        await fabric.publish("a", "before")
        reader, writer = await asyncio.open_connection("127.0.0.1", breakable.port)
        writer.write(b'CONNECT {"verbose":false}\r\nPUB fab.event.\xff\xfe 3\r\n"?"\r\nPING\r\n')
        while not (await reader.readline()).startswith(b"PONG"):
            pass
        writer.close()
        await writer.wait_closed()
        await fabric.publish("a", "after")
        async with fabric.subscribe(">", start="all") as events:
            assert await data(events, 2) == ["before", "after"]
        async with fabric.subscribe(">", start="all", group="g") as events:
            assert await data(events, 2) == ["before", "after"]


async def test_ids_are_known_again_among_those_of_their_topic(fabric: Fabric, word: str) -> None:
    async with fabric.subscribe(f"{word}.*") as events:
        first = await fabric.publish(f"{word}.a", 1, id="same é\r\nid")
        again = await fabric.publish(f"{word}.a", 2, id="same é\r\nid")
        await fabric.publish(f"{word}.b", 3, id="same é\r\nid")
        await fabric.publish(f"{word}.b", 4)
        assert first.sequence == again.sequence
        found = await take(events, 3)
    assert [event.data for event in found] == [1, 3, 4]
    assert found[0].id == "same é\r\nid"
    for empty in ({"id": ""}, {"subject": ""}):
        with pytest.raises(InvalidParams):
            await fabric.publish(f"{word}.a", 1, **empty)


async def test_many_published_at_once_are_all_there(fabric: Fabric, other: Fabric, word: str) -> None:
    async with other.subscribe(f"{word}.a") as events:
        stored = await asyncio.gather(*(fabric.publish(f"{word}.a", number) for number in range(500)))
        found = await take(events, 500)
    assert [event.sequence for event in found] == sorted(event.sequence for event in stored)
    assert {event.sequence: event.data for event in found} == {event.sequence: event.data for event in stored}


async def test_a_full_stream_refuses_and_keeps_what_it_has(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as fabric:
        small = {**EVENTS.config(1), "max_msgs": 3}
        await fabric.jetstream.request(f"STREAM.CREATE.{EVENTS.name}", small)  # as an operator may have it
        for number in range(3):
            await fabric.publish("a", number)
        with pytest.raises(QueueFull):
            await fabric.publish("a", 3)
        async with fabric.replay("a") as events:
            assert [event.data async for event in events] == [0, 1, 2]


def test_an_interest_says_where_it_begins() -> None:
    with pytest.raises(InvalidParams):
        interest("a", start="yesterday")
    assert json.dumps(interest("a", start=0).policy()).count("opt_start_seq") == 1


async def test_a_closed_client_is_forgotten(keeping: PrivateNats, word: str) -> None:
    async with AsyncExitStack() as stack:
        fabric = await stack.enter_async_context(Fabric.connect(keeping.url))
        transport = broker_of(fabric.transport)
        async with Fabric.over(transport) as inner:
            await inner.publish(f"{word}.a", 1)
        before = len(transport._listeners), len(transport._interests)
        async with Fabric.over(transport) as inner:
            await inner.publish(f"{word}.a", 2)
            async with inner.subscribe(f"{word}.a"), inner.replay(f"{word}.a"):
                pass
        assert (len(transport._listeners), len(transport._interests)) == before
