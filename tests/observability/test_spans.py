"""The rules of tracing, without a broker: what is sampled, what a span keeps, how it travels and is drawn.

Proves: OP-2.
"""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, StatusCode, set_span_in_context
from rich.console import Console
from rich.table import Table

from fabric.cli.top import table
from fabric.cli.waterfall import bar, duration, rows, waterfall
from fabric.observability.metrics_summary import Row
from fabric.observability.otel import about
from fabric.observability.spans import Kept, Provider, Span, Tracer
from fabric.observability.spans_export import Exporting
from fabric.observability.spans_reading import Trace as Kept_Trace
from fabric.observability.spans_wire import Told, batches, decode, otlp
from fabric.observability.tracing_sampling import HONOURED, Sampling, declined
from fabric_sdk import tracing
from fabric_sdk.contracts.conventions import Attribute
from fabric_sdk.contracts.scope import Scope, Trace, current_scope
from fabric_sdk.jetstream import JetStream
from fabric_sdk.transports.memory import MemoryTransport

SAMPLED = Trace(f"00-{'a1' * 16}-{'b2' * 8}-01")
UNSAMPLED = Trace(f"00-{'a1' * 16}-{'b2' * 8}-00")

attributes: st.SearchStrategy[Any] = st.dictionaries(
    st.text(min_size=1, max_size=10),
    st.text(max_size=10) | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    max_size=4,
)


def made(kept: Kept, trace: Trace | None = SAMPLED, name: str = "work") -> Span:
    context = None
    if trace is not None:
        cause = tracing.begin("x", SpanKind.SERVER, trace, {}).get_span_context()  # no provider: what came, passed on
        context = set_span_in_context(NonRecordingSpan(cause))
    span = Tracer(kept, "ours").start_span(name, context, SpanKind.CLIENT)
    assert isinstance(span, Span)
    return span


# sampling


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_the_draw_decides_where_the_client_says_nothing(drawn: float, rate: float) -> None:
    sampling = Sampling(rate, draw=lambda: drawn)
    assert sampling.takes(None) == (drawn < rate)
    assert not sampling.takes(UNSAMPLED)


def test_a_sampled_flag_is_honoured_as_often_as_is_bearable() -> None:
    now = 0.0
    sampling = Sampling(0.0, clock=lambda: now)
    assert sum(sampling.takes(SAMPLED) for _ in range(1000)) == HONOURED
    now = 0.5
    assert sum(sampling.takes(SAMPLED) for _ in range(1000)) == HONOURED / 2
    now = 3600.0
    assert sum(sampling.takes(SAMPLED) for _ in range(1000)) == HONOURED


def test_a_declined_trace_keeps_its_id_and_loses_its_flag() -> None:
    passed_on = declined(SAMPLED)
    assert Trace.of(passed_on.traceparent) == passed_on
    assert (passed_on.trace_id, passed_on.sampled) == (SAMPLED.trace_id, False)
    assert passed_on.traceparent[36:52] != SAMPLED.traceparent[36:52], "W3C: who changes the flag is a new parent"
    assert declined(UNSAMPLED) is UNSAMPLED


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_the_lowest_bit_says_that_a_trace_is_sampled(flags: str, sampled: bool) -> None:
    assert Trace(f"00-{'a1' * 16}-{'b2' * 8}-{flags}").sampled is sampled


# what the SDK does without a provider, and inside an author's own span


def test_without_a_provider_what_came_is_passed_on() -> None:
    span = tracing.begin("work", SpanKind.SERVER, SAMPLED, {})
    assert tracing.trace_of(span, None) == SAMPLED
    assert tracing.trace_of(tracing.begin("work", SpanKind.SERVER, None, {}), None) is None


def test_what_is_done_here_belongs_below_the_current_span() -> None:
    kept = Kept()
    inner = made(kept)
    assert tracing.current_trace() is None
    scope = current_scope.set(Scope(0.0, None, SAMPLED))
    try:
        assert tracing.current_trace() == SAMPLED
        with Tracer(kept, "author").start_as_current_span("mine"):
            current = tracing.current_trace()
            assert current is not None
            assert current != SAMPLED
        current_scope.set(Scope(0.0, None, UNSAMPLED))
        with Tracer(kept, "author").start_as_current_span("mine"):
            assert tracing.current_trace() == UNSAMPLED
    finally:
        current_scope.reset(scope)
    assert not inner.ended


# spans


def test_a_span_is_kept_once_it_ends() -> None:
    kept = Kept()
    span = made(kept)
    assert (span.is_recording(), len(kept)) == (True, 0)
    span.end()
    span.end()
    assert (span.is_recording(), kept.take(), len(kept)) == (False, [span], 0)
    assert (span.trace.trace_id, span.parent) == ("a1" * 16, "b2" * 8)


def test_what_there_is_no_room_for_is_dropped_and_counted() -> None:
    kept = Kept(2)
    for _ in range(5):
        made(kept).end()
    assert (len(kept), kept.dropped) == (2, 3)


def test_below_what_is_not_sampled_nothing_is_kept() -> None:
    cause = tracing.begin("x", SpanKind.SERVER, UNSAMPLED, {})
    span = Tracer(Kept(), "ours").start_span("work", set_span_in_context(cause))
    assert not span.is_recording()
    assert tracing.trace_of(span, None) == UNSAMPLED


def test_the_words_of_an_error_are_kept_nowhere() -> None:
    kept = Kept()
    others = Provider("ours", kept).get_tracer("some library")
    context = set_span_in_context(tracing.begin("x", SpanKind.SERVER, SAMPLED, {}))
    with pytest.raises(ValueError, match="canary"), others.start_as_current_span("theirs", context):
        raise ValueError("canary")
    ours = made(kept)
    ours.record_exception(ValueError("canary"))
    ours.set_status(StatusCode.ERROR, "canary")
    tracing.failed(ours, ValueError("canary"))
    ours.end()
    spans = kept.take()
    assert [(span.name, span.failed) for span in spans] == [("theirs", True), ("work", True)]
    assert [event.attributes["exception.type"] for span in spans for event in span.events] == ["ValueError"] * 2
    assert all(b"canary" not in batch.encoded for batch in batches({}, spans))


def test_other_libraries_begin_no_trace_of_their_own() -> None:
    kept = Kept()
    with Provider("ours", kept).get_tracer("some library").start_as_current_span("theirs"):
        pass
    assert not len(kept)


# the wire


@given(attributes, st.text(max_size=20), st.booleans())
def test_a_span_comes_back_as_it_was(said: dict[str, Any], name: str, failed: bool) -> None:
    kept = Kept()
    span = made(kept, name=name)
    span.set_attributes(said)
    span.add_event("happened", said)
    span.add_link(span.get_span_context())
    span.set_status(StatusCode.ERROR if failed else StatusCode.OK)
    span.end()
    trace_id = SAMPLED.trace_id
    (batch,) = batches({"service.name": "x"}, kept.take())
    (told,) = decode(batch.encoded)
    assert (told.trace, told.name, told.kind, told.failed) == (SAMPLED.trace_id, name, "client", failed)
    assert (told.attributes, told.resource) == (said, {"service.name": "x"})
    assert (told.start, told.end, told.parent) == (span.start, span.ended, "b2" * 8)
    assert told.links == [{"trace": trace_id, "id": told.id}]
    assert [(each["name"], each["attributes"]) for each in told.events] == [("happened", said)]
    (shown,) = otlp([told])["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (shown["traceId"], shown["spanId"], shown["kind"]) == (trace_id, told.id, 3)


@settings(deadline=None)  # megabytes, on a machine that may be busy
@given(st.lists(st.tuples(st.integers(1, 2**128 - 1), st.sampled_from([0, 1000, 100_000, 300_000])), max_size=12))
def test_spans_go_in_messages_of_a_size_under_the_last_digit_of_their_trace(sizes: list[tuple[int, int]]) -> None:
    kept = Kept()
    for number, size in sizes:
        span = made(kept, Trace(f"00-{number:032x}-{'b2' * 8}-01"))
        span.set_attribute("text", "x" * size)
        span.end()
    sent = list(batches({}, kept.take()))
    told = [(batch, decode(batch.encoded)) for batch in sent]
    found = [(int(each.trace, 16), len(each.attributes["text"])) for _, spans in told for each in spans]
    assert sorted(found) == sorted(sizes)
    for batch, spans in told:
        assert len(spans) == batch.spans
        assert {f"fab.span.{each.trace[-1]}" for each in spans} == {batch.subject}
    assert all(len(batch.encoded) < 300_000 or batch.spans == 1 for batch in sent)


def test_a_span_that_has_no_json_form_takes_no_other_with_it() -> None:
    kept = Kept()
    for attribute in ("text", object()):
        span = made(kept)
        span.set_attribute("what", attribute)
        span.end()
    (batch,) = batches({}, kept.take())
    assert [each.attributes for each in decode(batch.encoded)] == [{"what": "text"}]


@pytest.mark.parametrize(
    "message", [b"", b"{}", b"[]", b'{"resource": 1, "spans": [{}]}', b'{"resource": {}, "spans": 1}']
)
def test_what_is_no_message_of_spans_is_a_value_error(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(message)


@pytest.mark.parametrize(
    "forged",
    [
        {"start": 1e300},
        {"end": -1},
        {"attributes": ["x"]},
        {"events": ["x"]},
        {"events": [{"at": 1}]},
        {"events": [{"name": "x", "at": 1, "attributes": ["x"]}]},
        {"links": [{"id": "x"}]},
    ],
)
def test_a_span_that_nobody_could_draw_is_none(forged: dict[str, Any]) -> None:
    span = {"trace": "a1" * 16, "id": "b2" * 8, "name": "x", "kind": "server", "start": 1, "end": 2}
    assert decode(orjson.dumps({"resource": {}, "spans": [span]}))
    with pytest.raises(ValueError, match=r".+"):
        decode(orjson.dumps({"resource": {}, "spans": [span | forged]}))


@pytest.mark.parametrize("where", ["resource", "attributes", "events"])
def test_what_is_no_attribute_is_told_as_text(where: str) -> None:
    """Lists in lists, as deep as JSON is read, had no end for whoever made OTLP's JSON of them."""
    deep = orjson.Fragment(b"[" * 900 + b"]" * 900)
    attributes = {"deep": deep, "words": ["a", "b"]}
    span: dict[str, Any] = {"trace": "a1" * 16, "id": "b2" * 8, "name": "x", "kind": "server", "start": 1, "end": 2}
    if where == "events":
        span["events"] = [{"name": "x", "at": 1, "attributes": attributes}]
    elif where == "attributes":
        span["attributes"] = attributes
    resource = attributes if where == "resource" else {}
    encoded = orjson.dumps(otlp(decode(orjson.dumps({"resource": resource, "spans": [span]}))))
    assert b'"stringValue":"[[[' in encoded
    assert b'"arrayValue":{"values":[{"stringValue":"a"},{"stringValue":"b"}]}' in encoded


async def test_without_a_stream_spans_are_dropped_and_counted() -> None:
    kept = Kept()
    made(kept).end()
    jetstream = JetStream(MemoryTransport())
    await Exporting(jetstream, kept, {}).flush()
    await jetstream.close()
    assert (len(kept), kept.dropped) == (0, 1)


def test_the_environment_has_the_last_word_on_what_a_process_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=b%20c,nonsense")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    said = about("reader", "i1")
    assert (said["service.name"], said["service.instance.id"], said["a"]) == ("mine", "i1", "b c")


# drawing


def told(span_id: str, parent: str = "", start: int = 0, end: int = 100) -> Told:
    return Told("a" * 32, span_id, parent, span_id, "internal", start, end)


def test_spans_stand_below_one_another() -> None:
    spans = (
        told("root", "elsewhere"),
        told("a", "root", 1),
        told("b", "a", 2),
        told("c", "root", 3),
        told("lost", "gone", 4),
    )
    trace = Kept_Trace("a" * 32, spans)
    assert [(row.depth, row.span.id) for row in rows(trace)] == [(0, "root"), (1, "a"), (2, "b"), (1, "c"), (0, "lost")]
    assert trace.root.id == "root"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), min_size=1, max_size=12))
def test_each_span_is_drawn_once_whatever_they_say_is_above_them(pairs: list[tuple[str, str]]) -> None:
    spans = tuple(told(span, parent) for span, parent in dict(pairs).items())
    drawn = rows(Kept_Trace("a" * 32, spans))
    assert sorted(row.span.id for row in drawn) == sorted(span.id for span in spans)


def test_thousands_of_spans_below_one_another_are_drawn() -> None:
    spans = tuple(told(str(each), str(each - 1) if each else "") for each in range(3000))
    assert [row.depth for row in rows(Kept_Trace("a" * 32, spans))] == list(range(3000))


@pytest.mark.parametrize(
    ("kind", "code", "drawn"),
    [
        ("ValueError", "-32603", "error: ValueError (-32603)"),
        ("4290", "4290", "error: 4290"),
        ("lost", "", "error: lost"),
    ],
)
def test_an_error_is_drawn_with_its_code_once(kind: str, code: str, drawn: str) -> None:
    said = {"error.type": kind, **({"rpc.response.status_code": code} if code else {})}
    failed = replace(told("root"), failed=True, attributes=said)
    assert written(waterfall(Kept_Trace("a" * 32, (failed,)), 80), 80)[-1].strip() == drawn


def test_what_is_too_long_for_its_line_goes_on_below_itself() -> None:
    linked = replace(told("root"), links=[{"trace": "c" * 32, "id": "d" * 16}])
    lines = written(waterfall(Kept_Trace("a" * 32, (linked,)), 80), 80)[2:]
    assert " ".join(" ".join(lines).split()) == f"caused by {'d' * 16} of trace {'c' * 32}"
    assert len(lines) > 1
    assert all(line.startswith("    ") for line in lines[1:])
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_trace_is_drawn_within_the_line(width: int) -> None:
    spans = [told("root"), told("a", "root"), told("b", "a")]
    lines = written(waterfall(Kept_Trace("a" * 32, tuple(spans)), width), width)
    assert ("AFTER" in lines[0], "TOOK" in lines[0]) == (width >= 80, True)
    assert all("━" in line for line in lines[1:])
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [70, 80, 120])
def test_an_id_is_drawn_in_one_piece(width: int) -> None:
    """At 80 columns an id was broken in two, and could neither be looked up nor copied."""
    approval = {"name": "approval asked for", "at": 1, "attributes": {"approval": f"{'c3' * 12}-{'d4' * 4}"}}
    resource = {Attribute.SERVICE: "approvals", Attribute.INSTANCE: "e5" * 8}
    spans = (
        replace(told("root"), resource=resource),
        replace(told("a", "root"), links=({"trace": "b2" * 16, "id": "f6" * 8},)),
        replace(told("b", "a"), events=(approval,)),
    )
    lines = written(waterfall(Kept_Trace("a" * 32, spans[:2]), width), width)
    assert any("b2" * 16 in line for line in lines)
    assert max(map(len, lines)) <= width
    lines = written(waterfall(Kept_Trace("a" * 32, spans), width), width)
    assert any(f"approval={'c3' * 12}-{'d4' * 4}" in line for line in lines) == (width >= 80)
    assert max(map(len, lines)) <= width
    assert ("AFTER" in lines[0]) == (width == 120)


@pytest.mark.parametrize("width", [60, 80])
def test_the_picture_of_top_keeps_its_numbers_within_the_line(width: int) -> None:
    row = Row(
        agent="approvals",
        group=False,
        instances=12,
        calls_per_second=1234.5,
        p50_seconds=0.000123,
        p95_seconds=1.2,
        errors_per_second=0.5,
        running=64,
        waiting=1024,
        backlog=12345,
        dead_letters=123,
    )
    group = replace(row, agent="crew-note", group=True)
    heading, line, *last = written(table([row, group], width), width)
    assert heading.split() == ["AGENT", "UP", "CALLS/S", "P50", "P95", "ERR/S", "RUN", "WAIT", "QUEUE", "DEAD"]
    numbers = ["12", "1234.5", "123µs", "1.2s", "0.5", "64", "1024", "12345", "123"]
    assert line.split() == ["approvals", *numbers]
    assert sorted(" ".join(last).split()) == ["12345", "crew-note", "group"]


def written(grid: Table, width: int) -> list[str]:
    """What a terminal of this width shows."""
    console = Console(width=width, file=StringIO())
    with console.capture() as shown:
        console.print(grid)
    return [line.rstrip() for line in shown.get().splitlines()]


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_bar_stays_within_the_whole(one: int, other: int) -> None:
    span = told("a", start=min(one, other), end=max(one, other))
    drawn = bar(Kept_Trace("a" * 32, (told("root"), span)), span)
    assert 1 <= len(drawn.strip()) <= len(drawn) <= 32


def test_times_have_the_unit_that_suits_them() -> None:
    assert [duration(each) for each in (0.000012, 0.0123, 2.5)] == ["12 µs", "12.3 ms", "2.50 s"]


def test_links_are_kept() -> None:
    kept = Kept()
    cause = made(kept)
    span = Tracer(kept, "ours").start_span("work", None, SpanKind.CONSUMER, links=[Link(cause.get_span_context())])
    assert isinstance(span, Span)
    assert (span.links, span.parent) == ([cause.trace], "")


@pytest.mark.parametrize("trace", [None, SAMPLED, UNSAMPLED, Trace(SAMPLED.traceparent, "vendor=1,other=2")])
def test_a_span_is_the_same_by_the_short_way_and_by_opentelemetrys(trace: Trace | None) -> None:
    kept = Kept()
    tracer = Tracer(kept, "ours")
    above = None if trace is None else set_span_in_context(NonRecordingSpan(tracing.context_of(trace)))
    cause = [] if trace is None else [Link(tracing.context_of(trace))]
    about: dict[str, Any] = {"a": 1, "b": "x"}
    long = tracer.start_span("work", above, SpanKind.SERVER, about, cause, 7)
    short = tracer.begin("work", SpanKind.SERVER, trace, about, linked=True, start=7)
    if trace is not None and not trace.sampled:
        assert long.get_span_context() == short.get_span_context() == tracing.context_of(trace)
        return
    assert isinstance(long, Span)
    assert isinstance(short, Span)
    for name in ("name", "kind", "parent", "start", "attributes", "links", "scope"):
        assert getattr(short, name) == getattr(long, name), name
    assert short.trace.tracestate == long.trace.tracestate
    assert Trace.of(short.trace.traceparent, short.trace.tracestate) == short.trace
    assert trace is None or short.trace.trace_id == long.trace.trace_id == trace.trace_id
    assert len({short.id, long.id, short.parent}) == 3
    context = short.get_span_context()
    assert (context.is_valid, context.trace_flags.sampled) == (True, True)
    assert tracing.trace_of(short, None) == tracing.trace_of(NonRecordingSpan(context), None) == short.trace


def test_our_spans_are_made_the_short_way_where_the_provider_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider(tracing.SCOPE, Kept())
    monkeypatch.setattr(tracing, "get_tracer_provider", lambda: provider)
    span = tracing.begin("work", SpanKind.SERVER, SAMPLED, {"a": 1}, linked=True, start=7)
    assert isinstance(span, Span)
    assert (span.name, span.parent, span.links, span.start) == ("work", SAMPLED.span_id, [SAMPLED], 7)
