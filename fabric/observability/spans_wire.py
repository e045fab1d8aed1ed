"""Spans as they are kept in the stream: many of one process in one message.

Above: `spans_export`, which writes, and `spans_reading`. Below: JSON. Pure. A span in the stream is a small object of
plain values; OTLP's JSON, which says the same at length, is made for whoever asks for it. A message for each trace
would cost more than its spans do: those of traces whose ids end alike go together, and who looks for one reads all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson
from opentelemetry.trace import SpanKind

from fabric.observability.spans import Span
from fabric_sdk.contracts import subjects

Json = dict[str, Any]

_KINDS: Final = {kind: kind.name.lower() for kind in SpanKind}
_OTLP_KINDS: Final = {kind.name.lower(): kind.value + 1 for kind in SpanKind}
_ERROR: Final = 2
"""OTLP's code of a status."""
_MOST_BYTES: Final = 256 * 1024
"""Of spans in one message: a quarter of what NATS lets through by default."""
_LAST: Final = 2**63 - 1
"""Nanoseconds of Unix time, in the year 2262."""


@dataclass(frozen=True, slots=True)
class Told:
    """A span as somebody reads it."""

    trace: str
    id: str
    parent: str
    """The id of the span above, which may be anybody's; empty for the first of all."""
    name: str
    kind: str
    start: int
    end: int
    """Both in nanoseconds of Unix time."""
    failed: bool = False
    scope: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    events: Sequence[Json] = ()
    links: Sequence[Mapping[str, str]] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start) / 1e9


@dataclass(frozen=True, slots=True)
class Batch:
    """One message of the stream."""

    subject: str
    encoded: bytes
    spans: int
    """How many are in it."""


def batches(resource: Mapping[str, Any], spans: Iterable[Span]) -> Iterator[Batch]:
    """The messages that have these spans, but for those of which an attribute has no JSON form."""
    found: defaultdict[str, list[Json]] = defaultdict(list)
    for span in spans:
        found[span.trace.trace_id[-1]].append(_plain(span))
    for digit, those in found.items():
        yield from _batches(subjects.spans(digit), resource, those)


def _batches(subject: str, resource: Mapping[str, Any], spans: Sequence[Json]) -> Iterator[Batch]:
    """One message of all these, or in halves what does not fit; what fits nowhere is alone with its fault."""
    try:
        encoded = orjson.dumps({"resource": resource, "spans": spans})
    except TypeError:
        encoded = b""
    if encoded and (len(encoded) <= _MOST_BYTES or len(spans) == 1):
        yield Batch(subject, encoded, len(spans))
    elif len(spans) > 1:
        half = len(spans) // 2
        yield from _batches(subject, resource, spans[:half])
        yield from _batches(subject, resource, spans[half:])


def _plain(span: Span) -> Json:
    plain: Json = {
        "trace": span.trace.trace_id,
        "id": span.id,
        "name": span.name,
        "kind": _KINDS[span.kind],
        "start": span.start,
        "end": span.ended,
        "scope": span.scope,
        "attributes": span.attributes,
    }
    if span.parent:
        plain["parent"] = span.parent
    if span.failed:
        plain["failed"] = True
    if span.events:
        plain["events"] = [{"name": each.name, "at": each.at, "attributes": each.attributes} for each in span.events]
    if span.links:
        plain["links"] = [{"trace": link.trace_id, "id": link.span_id} for link in span.links]
    return plain


def decode(message: bytes) -> list[Told]:
    """The spans in one message of the stream.

    Raises:
        ValueError: it is none.
    """
    try:
        said = cast("Json", orjson.loads(message))
        resource = _values(said["resource"])
        return [_told(resource, span) for span in said["spans"]]
    except (LookupError, TypeError, OverflowError, RecursionError) as foreign:
        raise ValueError(f"no spans of ours: {foreign!r}") from None


def _told(resource: Json, span: Json) -> Told:
    return Told(
        str(span["trace"]),
        str(span["id"]),
        str(span.get("parent", "")),
        str(span["name"]),
        str(span["kind"]),
        _moment(span["start"]),
        _moment(span["end"]),
        bool(span.get("failed")),
        str(span.get("scope", "")),
        resource,
        _values(span.get("attributes") or {}),
        [_event(each) for each in span.get("events") or ()],
        [{"trace": str(each["trace"]), "id": str(each["id"])} for each in span.get("links") or ()],
    )


def _event(said: Json) -> Json:
    return {"name": str(said["name"]), "at": _moment(said["at"]), "attributes": _values(said.get("attributes") or {})}


def _values(said: Any) -> Json:
    """Attributes as OpenTelemetry has them, plain values and lists of such; whatever else somebody wrote, as text."""
    return {str(name): value if _is_plain(value) else str(value) for name, value in dict(said).items()}


def _is_plain(value: Any) -> bool:
    each = cast("list[Any]", value) if isinstance(value, list) else [value]
    return not any(isinstance(one, (list, dict)) for one in each)


def _moment(said: Any) -> int:
    """Nanoseconds of Unix time."""
    moment = int(said)
    if not 0 <= moment <= _LAST:
        raise ValueError(f"{said!r} is no time")
    return moment


def otlp(spans: Sequence[Told]) -> Json:
    """Spans as OTLP has them in JSON: what a collector takes as `ExportTraceServiceRequest`."""
    resources: dict[bytes, dict[str, list[Told]]] = {}
    for span in spans:
        scopes = resources.setdefault(orjson.dumps(span.resource, option=orjson.OPT_SORT_KEYS), {})
        scopes.setdefault(span.scope, []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(orjson.loads(resource))},
                "scopeSpans": [
                    {"scope": {"name": scope}, "spans": [_otlp_span(span) for span in those]}
                    for scope, those in scopes.items()
                ],
            }
            for resource, scopes in resources.items()
        ]
    }


def _otlp_span(span: Told) -> Json:
    events = [
        {"timeUnixNano": str(each["at"]), "name": each["name"], "attributes": _attributes(each.get("attributes") or {})}
        for each in span.events
    ]
    return {
        "traceId": span.trace,
        "spanId": span.id,
        **({"parentSpanId": span.parent} if span.parent else {}),
        "name": span.name,
        "kind": _OTLP_KINDS.get(span.kind, 0),
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _attributes(span.attributes),
        "events": events,
        "links": [{"traceId": link["trace"], "spanId": link["id"]} for link in span.links],
        "status": {"code": _ERROR} if span.failed else {},
    }


def _attributes(said: Mapping[str, Any]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in said.items()]


def _value(value: Any) -> Json:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [_value(each) for each in cast("Sequence[Any]", value)]}}
    return {"stringValue": str(value)}
