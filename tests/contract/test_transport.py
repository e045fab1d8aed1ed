"""What `transports.base` promises, kept by every transport. Proves: RT-1, PT-1."""

from __future__ import annotations

import re
from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import Ear

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import MessageTooLarge, TransportUnavailable
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.transports.memory import MemoryTransport, matches
from fabric_sdk.transports.nats import NatsTransport
from tests.contract.conftest import Bus, MemoryBus, NatsBus, settled

pytestmark = pytest.mark.anyio

_numbers = count()


@pytest.fixture
def root() -> str:
    """The first token of the test's own subjects; the server is shared."""
    return f"test{next(_numbers)}"


def means(pattern: str, subject: str) -> bool:
    """What a pattern means, said another way than the product says it."""
    tokens = {"*": r"[^.]+", ">": r".+"}
    expression = r"\.".join(tokens.get(token, re.escape(token)) for token in pattern.split("."))
    return re.fullmatch(expression, subject) is not None


token = st.sampled_from(["a", "b", "fab", "a-b", "A"])
subject_of = st.lists(token, min_size=1, max_size=6).map(".".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.one_of(token, st.just("*")), min_size=1, max_size=6))
    if draw(st.booleans()):
        tokens[-1] = ">"
    return ".".join(tokens)


@given(patterns(), subject_of)
def test_the_matcher_in_this_process_gives_wildcards_their_meaning(pattern: str, subject: str) -> None:
    assert matches(pattern, subject) == means(pattern, subject)


@given(st.lists(patterns(), max_size=6), st.lists(subject_of, max_size=6), st.integers(0, 6))
async def test_a_bus_in_this_process_finds_everybody_who_hears_a_subject(
    heard: list[str], published: list[str], closed: int
) -> None:
    transport = MemoryTransport()
    ears = [(pattern, Ear()) for pattern in heard]
    interests = [await transport.subscribe(pattern, ear) for pattern, ear in ears]
    for leaving in ((), interests[:closed]):
        for interest in leaving:
            await interest.close()
        for subject in published:
            await transport.publish(Message(subject))
    for number, (pattern, ear) in enumerate(ears):
        meant = [subject for subject in published if means(pattern, subject)]
        assert ear.subjects == (meant if number < closed else meant * 2)


PATTERNS = [
    *("a", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "b.a"),
    *("*", "a.*", "*.b", "*.*", "a.*.c", "a.b.*", "*.b.*", "*.*.*", "a.b.c.*", "a.*.c.*", "a.b.c.*.e"),
    *(">", "a.>", "*.>", "a.b.>", "a.*.>", "a.b.c.>", "a.b.c.d.>", "*.b.>"),
]
SUBJECTS = ["a", "b", "a.b", "b.a", "ab.a", "a.b.c", "a.c.c", "b.b.b", "a.b.c.d", "a.c.c.d", "a.b.c.d.e", "a.b.c.c.e"]


async def test_a_pattern_hears_exactly_the_subjects_that_it_means(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ears = {pattern: Ear() for pattern in PATTERNS}
    for pattern, ear in ears.items():
        await subscriber.subscribe(f"{root}.{pattern}", ear)
    await subscriber.flush()
    for subject in SUBJECTS:
        await publisher.publish(Message(f"{root}.{subject}"))
    await settled(publisher, subscriber)
    for pattern, ear in ears.items():
        meant = [f"{root}.{subject}" for subject in SUBJECTS if means(pattern, subject)]
        assert ear.subjects == meant, pattern


async def test_everybody_without_a_group_hears_each_message_once(bus: Bus, root: str) -> None:
    publisher, subscribers = await bus.connect(), [await bus.connect() for _ in range(3)]
    ears = [Ear() for _ in subscribers]
    for subscriber, ear in zip(subscribers, ears, strict=True):
        await subscriber.subscribe(root, ear)
        await subscriber.flush()
    for number in range(10):
        await publisher.publish(Message(root, Body(number)))
    for subscriber, ear in zip(subscribers, ears, strict=True):
        await settled(publisher, subscriber)
        assert ear.values == list(range(10))


async def test_one_member_of_each_queue_group_takes_each_message(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    groups = {name: [Ear() for _ in range(3)] for name in ("first", "second")}
    for name, ears in groups.items():
        for ear in ears:
            await subscriber.subscribe(f"{root}.*", ear, queue=name)
    alone = Ear()
    await subscriber.subscribe(f"{root}.>", alone)
    await subscriber.flush()
    for number in range(100):
        await publisher.publish(Message(f"{root}.call", Body(number)))
    await settled(publisher, subscriber)
    for ears in (*groups.values(), [alone]):
        assert Counter(value for ear in ears for value in ear.values) == Counter(range(100))
    for ears in groups.values():
        assert all(ear.heard for ear in ears), "a member of the group was left out of a hundred messages"


async def test_a_queue_group_is_one_group_whatever_pattern_its_members_hear_with(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ears = [Ear(), Ear(), Ear()]
    for pattern, ear in zip(("call", "*", ">"), ears, strict=True):
        await subscriber.subscribe(f"{root}.{pattern}", ear, queue="pool")
    await subscriber.flush()
    for number in range(20):
        await publisher.publish(Message(f"{root}.call", Body(number)))
    await settled(publisher, subscriber)
    assert Counter(value for ear in ears for value in ear.values) == Counter(range(20))


async def test_a_question_that_nobody_hears_is_answered_503(bus: Bus, root: str) -> None:
    asker, other = await bus.connect(), await bus.connect()
    answers = Ear()
    await asker.subscribe(f"{root}.reply", answers)
    await asker.publish(Message(f"{root}.question", Body(1), reply=f"{root}.reply"))
    [answer] = await answers.wait()
    assert answer.header(Header.STATUS) == "503"
    assert answer.subject == f"{root}.reply"

    listening = await other.subscribe(f"{root}.question", Ear(), queue="pool")
    await other.flush()
    await asker.publish(Message(f"{root}.question", Body(2), reply=f"{root}.reply"))
    await asker.publish(Message(f"{root}.question", Body(3)))
    await settled(asker, asker)
    assert len(answers.heard) == 1, "somebody listened, or no answer was wanted"

    await listening.close()
    await asker.publish(Message(f"{root}.question", Body(4), reply=f"{root}.reply"))
    assert [answer.header(Header.STATUS) for answer in await answers.wait(2)] == ["503", "503"]


async def test_messages_of_one_publisher_to_one_subscription_keep_their_order(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear = Ear()
    await subscriber.subscribe(f"{root}.>", ear)
    await subscriber.flush()
    for number in range(3000):
        headers = {"Number": str(number)} if number % 3 == 0 else None
        await publisher.publish(Message(f"{root}.{number % 7}", Body(number), headers=headers))
    await ear.wait(3000)
    assert ear.values == list(range(3000))


async def test_closing_a_subscription_hears_out_what_had_been_sent_and_nothing_more(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear = Ear()
    subscription = await subscriber.subscribe(root, ear, queue="pool")
    await subscriber.flush()
    for number in range(2000):
        await publisher.publish(Message(root, Body(number)))
    await publisher.flush()
    await subscription.close()
    assert ear.values == list(range(2000))
    await publisher.publish(Message(root, Body("late")))
    await settled(publisher, subscriber)
    assert len(ear.heard) == 2000


async def test_a_subscription_is_known_to_the_broker_as_soon_as_it_is_made(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear, bulk = Ear(), Body("x" * 500_000)
    for number in range(20):
        await subscriber.publish(Message(f"{root}.bulk", bulk))  # keeps the way busy for what comes after it
        await subscriber.subscribe(f"{root}.known.{number}", ear)
        await publisher.publish(Message(f"{root}.known.{number}"))
    await settled(publisher, subscriber)
    assert ear.subjects == [f"{root}.known.{number}" for number in range(20)]


async def test_a_subscription_may_be_closed_twice_and_does_not_touch_its_neighbours(bus: Bus, root: str) -> None:
    transport = await bus.connect()
    ear, neighbour = Ear(), Ear()
    subscription = await transport.subscribe(root, ear)
    await transport.subscribe(root, neighbour)
    await subscription.close()
    await subscription.close()
    await transport.publish(Message(root))
    await settled(transport, transport)
    assert (len(ear.heard), len(neighbour.heard)) == (0, 1)


async def test_headers_and_the_reply_address_survive(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear = Ear()
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    headers = {
        "Fab-Key": "a-1",
        "Fab-Principal": "Zoë: Ünal 漢字",
        "tracestate": "a=1,b=2",
        "Nats-Service-Error": "x: y",
    }
    await publisher.publish(Message(root, Body(1), reply=f"{root}.reply", headers=headers))
    await publisher.publish(Message(root, Body(2)))
    with_headers, without = await ear.wait(2)
    assert with_headers.headers == headers
    assert with_headers.reply == f"{root}.reply"
    assert with_headers.header("Fab-Key") == "a-1"
    assert not without.headers
    assert without.header("Fab-Key") is None
    assert without.reply == ""


async def test_an_empty_body_arrives_as_nothing(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear = Ear()
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    await publisher.publish(Message(root))
    [message] = await ear.wait()
    assert message.body.value() is None
    assert message.body.encoded() == b""


async def test_within_the_process_a_body_is_handed_over_as_it_is() -> None:
    transport, ear = MemoryTransport(), Ear()
    await transport.subscribe("here", ear)
    value = {"no JSON form": object()}
    body = Body(value)
    await transport.publish(Message("here", body))
    [message] = ear.heard
    assert message.body is body
    assert message.body.value() is value


async def test_over_nats_a_body_travels_as_its_json_bytes(nats_bus: NatsBus, root: str) -> None:
    publisher, subscriber = await nats_bus.connect(), await nats_bus.connect()
    ear = Ear()
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    untouched = b'{"n": 1.50,  "text": "\\u00e9"}'  # spaces, zeros and escapes stay as they are
    await publisher.publish(Message(root, Body(encoded=untouched)))
    await publisher.publish(Message(root, Body({"a": [1, None, "é"]})))
    opaque, made = await ear.wait(2)
    assert opaque.body.encoded() == untouched
    assert made.body.encoded() == '{"a":[1,null,"é"]}'.encode()
    with pytest.raises(TypeError):
        await publisher.publish(Message(root, Body(object())))


async def test_a_receiver_that_raises_hurts_nobody_else(bus: Bus, root: str, caplog: pytest.LogCaptureFixture) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()

    def broken(message: Message) -> None:
        raise RuntimeError("this receiver is broken")

    before, after, grouped = Ear(), Ear(), Ear()
    await subscriber.subscribe(root, before)
    await subscriber.subscribe(root, broken)
    await subscriber.subscribe(root, broken, queue="broken")
    await subscriber.subscribe(root, after)
    await subscriber.subscribe(root, grouped, queue="whole")
    await subscriber.flush()
    for number in range(3):
        await publisher.publish(Message(root, Body(number)))
    await settled(publisher, subscriber)
    assert before.values == after.values == grouped.values == [0, 1, 2]
    assert "this receiver is broken" in caplog.text


async def test_when_flush_returns_the_other_side_has_everything(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear = Ear()
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    for number in range(500):
        await publisher.publish(Message(root, Body(number)))
    await publisher.flush()
    await subscriber.flush()  # what the broker has for it stands before the broker's answer to this
    assert ear.values == list(range(500))


async def test_closing_sends_what_is_pending(bus: Bus, root: str) -> None:
    publisher, subscriber = await bus.connect(), await bus.connect()
    ear = Ear()
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    for number in range(500):
        await publisher.publish(Message(root, Body(number)))
    await publisher.close()
    await ear.wait(500)
    assert ear.values == list(range(500))


async def test_a_closed_transport_refuses_everything_and_says_so(bus: Bus, root: str) -> None:
    transport = await bus.connect()
    assert transport.connected
    await transport.close()
    assert not transport.connected
    with pytest.raises(TransportUnavailable):
        await transport.publish(Message(root))
    with pytest.raises(TransportUnavailable):
        await transport.subscribe(root, Ear())
    with pytest.raises(TransportUnavailable):
        await transport.flush()
    await transport.close()  # a second time does nothing


async def test_a_subscription_can_be_closed_after_its_transport(bus: Bus, root: str) -> None:
    transport = await bus.connect()
    subscription = await transport.subscribe(root, Ear())
    await transport.close()
    await subscription.close()


async def test_within_the_process_no_message_is_too_large() -> None:
    transport, ear = await MemoryBus().connect(), Ear()
    await transport.subscribe("here", ear)
    await transport.publish(Message("here", Body("x" * 10_000_000)))
    assert len(ear.heard) == 1


async def test_over_nats_the_largest_body_travels_and_a_larger_one_is_refused(nats_bus: NatsBus, root: str) -> None:
    publisher, subscriber = await nats_bus.connect(), await nats_bus.connect()
    ear = Ear()
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    largest = b'"' + b"x" * (publisher.max_message - 2) + b'"'
    await publisher.publish(Message(root, Body(encoded=largest), reply=f"{root}.reply"))
    with pytest.raises(MessageTooLarge, match="raise max_payload"):
        await publisher.publish(Message(root, Body(encoded=largest + b" ")))
    [message] = await ear.wait()
    assert message.body.encoded() == largest


async def test_headers_count_towards_the_limit_and_cost_nobody_the_connection(nats_bus: NatsBus, root: str) -> None:
    publisher, subscriber = await nats_bus.connect(), await nats_bus.connect()
    assert isinstance(publisher, NatsTransport)
    ear, lost = Ear(), list[str]()
    publisher.listen(lost.append)
    await subscriber.subscribe(root, ear)
    await subscriber.flush()
    headers = {"Fab-Key": "k" * 100, "Fab-Principal": "é" * 50}
    travelled, refused = 0, 0
    for less in range(0, 400, 20):
        body = Body(encoded=b"x" * (publisher.max_message - less))
        try:
            await publisher.publish(Message(root, body, headers=headers))
            travelled += 1
        except MessageTooLarge:
            refused += 1
    assert travelled
    assert refused
    await ear.wait(travelled)
    await settled(publisher, subscriber)
    assert lost == []
