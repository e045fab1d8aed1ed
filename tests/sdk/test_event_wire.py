"""Events as they travel: CloudEvents 1.0 in NATS's binary mode, ours and foreign ones. Proves: EV-6."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.contracts.event import Event, checked_pattern, checked_topic, checked_topics

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def headers(event: Event) -> dict[str, str]:
    return dict(event.message().headers or {})


def test_every_attribute_is_a_header_and_the_data_is_the_body() -> None:
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    event = Event(
        "orders.created",
        Body({"total": 1}),
        id="7",
        source="/agents/shop",
        time="2026-11-20T10:00:00Z",
        subject="order/7",
        schema="fabric:schemas/orders.created/1",
        traceparent=trace,
    )
    message = event.message()
    assert message.subject == "fab.event.orders.created"
    assert message.body.encoded() == b'{"total":1}'
    assert headers(event) == {
        "ce-specversion": "1.0",
        "ce-id": "7",
        "ce-source": "/agents/shop",
        "ce-type": "orders.created",
        "ce-time": "2026-11-20T10:00:00Z",
        "ce-datacontenttype": "application/json",
        "ce-subject": "order/7",
        "ce-dataschema": "fabric:schemas/orders.created/1",
        "ce-traceparent": trace,
        "Nats-Msg-Id": "orders.created /agents/shop 7",
    }


def test_what_is_not_said_is_no_header() -> None:
    event = Event("a", Body(None), id="1", source="/")
    assert not {"ce-subject", "ce-dataschema", "ce-traceparent"} & headers(event).keys()
    assert datetime.fromisoformat(event.time).tzinfo == UTC
    assert event.time.endswith("Z")


def test_header_values_are_encoded_as_the_binding_says() -> None:
    said = headers(Event("a", Body(1), id='50% "é" €😀\r\n', source="/a b", subject="plain/~ok?x=1&y=(2)"))
    assert said["ce-id"] == "50%25%20%22%C3%A9%22%20%E2%82%AC%F0%9F%98%80%0D%0A"
    assert said["ce-source"] == "/a%20b"
    assert said["ce-subject"] == "plain/~ok?x=1&y=(2)"


@given(TEXT, TEXT, st.none() | TEXT, TEXT)
def test_whatever_is_said_comes_back(id: str, source: str, subject: str | None, type: str) -> None:
    event = Event("a.b", Body(1), id=id, source=source, subject=subject, type=type)
    message = event.message()
    assert all(re.fullmatch(r"[\x20-\x7e]*", value) for value in (message.headers or {}).values())
    back = Event.of(message, 5)
    assert back.about() == {**event.about(), "sequence": 5}


@given(TEXT, TEXT, TEXT, TEXT)
def test_two_events_have_one_name_only_if_they_are_the_same(a: str, b: str, c: str, d: str) -> None:
    one, other = (Event("t", Body(1), id=id, source=source) for id, source in ((a, b), (c, d)))
    assert (headers(one)["Nats-Msg-Id"] == headers(other)["Nats-Msg-Id"]) == ((a, b) == (c, d))


def foreign(body: bytes, **said: str) -> Event:
    named = {name.replace("_", "-"): value for name, value in said.items()}
    return Event.of(Message("fab.event.orders.created", Body(encoded=body), headers=named or None), 9, 1_763_632_800.5)


def test_a_foreign_cloudevent_is_read() -> None:
    event = foreign(
        b'{"x":1}',
        ce_specversion="1.0",
        ce_id="A%20234",
        ce_source="https://example.com/%C3%A9",
        ce_type="com.example.order",
        ce_time="2018-04-05T17:31:00Z",
        ce_subject="7",
        ce_comexampleext="ext",
    )
    assert (event.topic, event.type, event.id) == ("orders.created", "com.example.order", "A 234")
    assert (event.source, event.time, event.subject) == ("https://example.com/é", "2018-04-05T17:31:00Z", "7")
    assert (event.data, event.sequence) == ({"x": 1}, 9)


def test_what_a_foreign_publisher_left_out_is_filled_in() -> None:
    event = foreign(b"1")
    assert event.about() == {
        "id": "9",
        "type": "orders.created",
        "topic": "orders.created",
        "source": "/",
        "time": "2025-11-20T10:00:00.500000Z",
        "subject": None,
        "dataschema": None,
        "sequence": 9,
    }


def test_an_event_in_structured_mode_is_its_whole_body() -> None:
    body = b'{"specversion":"1.0","id":"1","source":"/x","type":"t","data":{"a":1}}'
    event = foreign(body, content_type="application/cloudevents+json")
    assert event.data["data"] == {"a": 1}
    assert (event.id, event.source) == ("9", "/")


@pytest.mark.parametrize("topic", ["a", "a.b", "A-1.b_2", ".".join("a" * 16)])
def test_topics(topic: str) -> None:
    assert checked_topic(topic) == topic
    assert checked_pattern(topic) == topic


@pytest.mark.parametrize("topic", ["", ".", "a.", ".a", "a b", "a.*", ">", "é", "a\n", "a" * 65, ".".join("a" * 17)])
def test_what_is_no_topic(topic: str) -> None:
    with pytest.raises(InvalidParams):
        checked_topic(topic)


WORDS: st.SearchStrategy[list[str]] = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3)
PATTERNS = st.tuples(WORDS, st.sampled_from(["", ".>"])).map(lambda both: ".".join(both[0]) + both[1])


def names(pattern: str, topic: str) -> bool:
    expression = pattern.replace(".", r"\.").replace("*", "[^.]+").replace(">", ".+")
    return re.fullmatch(expression, topic) is not None


@given(PATTERNS, PATTERNS)
def test_patterns_that_name_the_same_topic_are_refused_together(one: str, other: str) -> None:
    letters = "ab"
    topics = list(letters)
    for _ in range(4):
        topics += [f"{topic}.{letter}" for topic in topics for letter in letters if topic.count(".") < 4]
    both = any(names(one, topic) and names(other, topic) for topic in set(topics))
    try:
        checked_topics([one, other])
    except InvalidParams:
        assert both
    else:
        assert not both
