"""Expressions of subscribers: what they see, what they cannot do, how they end. Proves: EV-2, EV-5."""

from __future__ import annotations

from typing import Any

import pytest

from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import InvalidParams, Reject
from fabric_sdk.contracts.event import Event
from fabric_sdk.routing.expressions import Expression, TransformationFailed


def event(data: Any) -> Event:
    return Event("orders.created", Body(data), id="7", source="/shop")


@pytest.mark.parametrize(
    ("source", "data", "accepted"),
    [
        ("data.total > 100", {"total": 120}, True),
        ("data.total > 100", {"total": 100}, False),
        ("data.total > 100", {}, False),
        ("data.total > 100", {"total": "120"}, False),
        ("data.total > 100", None, False),
        ("data.total > 100", [1], False),
        ("data.total", {"total": True}, True),
        ("data.total", {"total": 1}, False),
        ("1 / data.n > 0", {"n": 0}, False),
        ("data.n % 2 == 0", {"n": 2**80}, False),
        ("has(data.a) && data.a.b == 'x'", {"a": {"b": "x"}}, True),
        ("data.tags.exists(tag, tag.startsWith('eu'))", {"tags": ["us", "eu-1"]}, True),
        ("data.name.matches('^A.*e$')", {"name": "Anne"}, True),
        ("event.topic == 'orders.created' && event.source == '/shop' && event.id == '7'", 1, True),
        ("event.subject == null", 1, True),
        ("data['odd key'] == 1", {"odd key": 1}, True),
        ("true", "anything", True),
    ],
)
def test_filters(source: str, data: Any, accepted: bool) -> None:
    assert Expression(source).accepts(event(data)) is accepted


@pytest.mark.parametrize(
    ("source", "data", "made"),
    [
        ("{'id': data.number}", {"number": 5}, {"id": 5}),  # rename
        ("{'a': data.a}", {"a": [1, {"b": None}], "secret": 1}, {"a": [1, {"b": None}]}),  # project
        ("{'n': data.n, 'kind': event.type, 'x2': data.n * 2}", {"n": 2}, {"n": 2, "kind": "orders.created", "x2": 4}),
        ("data.items.map(item, item.price)", {"items": [{"price": 1.5}, {"price": 2.5}]}, [1.5, 2.5]),
        ("has(data.a) ? data.a : 'none'", {}, "none"),
        ("data", "text", "text"),
    ],
)
def test_transformations(source: str, data: Any, made: Any) -> None:
    assert Expression(source).transformed(event(data)) == made


@pytest.mark.parametrize(("source", "data"), [("data.a", {}), ("data.a * 2", {"a": "x"}), ("1 / data", 0)])
def test_a_misfit_names_the_event_and_is_never_tried_again(source: str, data: Any) -> None:
    with pytest.raises(TransformationFailed, match="does not fit event 7") as failed:
        Expression(source).transformed(event(data))
    assert isinstance(failed.value, Reject)


@pytest.mark.parametrize("source", ["", "data.(", "]", "data ==", "(" * 2000 + "1" + ")" * 2000, "1" + "+1" * 3000])
def test_what_is_no_expression_or_huge_is_refused(source: str) -> None:
    with pytest.raises(InvalidParams):
        Expression(source)


def test_expressions_reach_nothing_else() -> None:
    for source in ("__import__('os')", "open('/etc/passwd')", "data.__class__", "event._body", "eval('1')"):
        assert not Expression(source).accepts(event({"a": 1}))


@pytest.mark.parametrize("source", ["dta.n > 1", "data.n > 1 && dta.n > 1", "{'id': number}", "foo.bar(1)"])
def test_an_expression_that_speaks_of_what_there_never_is_is_refused(source: str) -> None:
    with pytest.raises(InvalidParams, match="which there never is") as refused:
        Expression(source)
    assert refused.value.fix == "speak of `event` and `data`"


@pytest.mark.parametrize(
    "source",
    [
        "type(data) == int",
        "data.startsWith('x')",
        "int(data) > 1",
        "timestamp(data) > timestamp(event.time)",
    ],
)
def test_an_expression_that_fits_no_object_is_none_the_less_one(source: str) -> None:
    assert Expression(source).accepts(event({})) is False


def test_a_name_that_is_met_only_later_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    filter = Expression("has(data.n) ? dta.n > 1 : true")
    assert [filter.accepts(event(data)) for data in ({}, {"n": 1}, {"n": 2})] == [True, False, False]
    assert [each.getMessage() for each in caplog.records] == [
        "the filter 'has(data.n) ? dta.n > 1 : true' passed an event over: it speaks of 'dta', which there never is"
    ]
