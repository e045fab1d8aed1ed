"""Spans: what the fabric does for somebody, told to OpenTelemetry.

Above: patterns, workers, the gateway. Below: OpenTelemetry's API, and whatever provider the process has; where there is
none, nothing happens and what came is passed on. The platform's own one makes ours in a shorter way. A request that is
not sampled comes nowhere near here: whoever asks for a span has looked at `Trace.sampled` before, so that it costs next
to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as current
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
    get_current_span,
    get_tracer,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from fabric_sdk.contracts.conventions import NATS, TOOL_ERROR, Attribute
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import FabricError, HandlerRaised
from fabric_sdk.contracts.scope import Scope, Trace, current_scope, scope_for
from fabric_sdk.results import is_error

SCOPE: Final = "fabric_sdk"
"""The name of our instrumentation."""
_NOTHING: Final = current.Context()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_NO_STATE: Final = TraceState()

_tracer = get_tracer(SCOPE)

Attributes = Mapping[str, AttributeValue]


class TravellingSpan(Span):
    """A span that knows itself as it travels; OpenTelemetry's are numbers, to be read and written out each time."""

    trace: Trace
    """What is below it belongs to."""


class TravellingProvider(TracerProvider):
    """A provider that makes our spans of what came as it came, and not by way of OpenTelemetry's numbers."""

    begin: Callable[[str, SpanKind, Trace | None, Attributes, bool, int | None], Span]
    """Makes a span of what the function `begin` is given."""


def current_trace() -> Trace | None:
    """The trace that whatever is done here belongs to: below the current span, where an author began one."""
    scope = current_scope.get()
    if scope is not None and (scope.trace is None or not scope.trace.sampled):
        return scope.trace
    otherwise = scope.trace if scope is not None else None
    return trace_of(get_current_span(), otherwise) if current.get_current() else otherwise


def scope_here(timeout: float) -> Scope:
    """A scope of `timeout` seconds for what is done here; see `scope_for`."""
    return scope_for(timeout, trace=current_trace())


def trace_of(span: Span, otherwise: Trace | None) -> Trace | None:
    """What is to travel on from `span`; where it is none, what came."""
    if isinstance(span, TravellingSpan):
        return span.trace
    if span is INVALID_SPAN:
        return otherwise
    context = span.get_span_context()
    return travelling(context) if context.is_valid else otherwise


def begin(
    name: str,
    kind: SpanKind,
    trace: Trace | None,
    attributes: Attributes,
    *,
    linked: bool = False,
    start: int | None = None,
) -> Span:
    """A span below what `trace` names; without one, the first of a new trace.

    Args:
        name: what is done, with few different values.
        kind: on which side of a message it is.
        trace: what caused it.
        attributes: see `contracts.conventions`.
        linked: whether it is also linked to its cause, which may have ended long ago.
        start: Unix time in nanoseconds, unless it begins now.
    """
    provider = get_tracer_provider()
    if isinstance(provider, TravellingProvider):
        return provider.begin(name, kind, trace, attributes, linked, start)
    cause = None if trace is None else context_of(trace)
    above = _NOTHING if cause is None else set_span_in_context(NonRecordingSpan(cause), _NOTHING)
    links = (Link(cause),) if linked and cause is not None else ()
    return _tracer.start_span(name, above, kind, attributes, links, start)


def enter(span: Span) -> None:
    """Make `span` the current one, for the rest of this asyncio task and for whatever it starts."""
    current.attach(set_span_in_context(span))


@contextmanager
def sending(doing: str, what: str, trace: Trace, destination: str, more: Attributes) -> Generator[Span]:
    """The span of something that is sent to be kept: a task's start, an event."""
    about = {Attribute.SYSTEM: NATS, Attribute.DESTINATION: destination, Attribute.DOING: doing, Attribute.KIND: "send"}
    with ending(begin(f"{doing} {what}", SpanKind.PRODUCER, trace, {**about, **more})) as span:
        yield span


class ending:  # noqa: N801 - a context manager, and no generator, which would cost as much as the span
    """A span that ends with the block, and says what ended it."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        return self._span

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        if failure is not None:
            failed(self._span, failure)
        self._span.end()


def failed(span: Span, failure: BaseException) -> None:
    """Note what kind of failure it was. Not its words: they may quote what was asked."""
    if isinstance(failure, FabricError):
        span.set_attribute(Attribute.STATUS, str(failure.code))
    raised = failure.__cause__ if isinstance(failure, HandlerRaised) and failure.__cause__ else failure
    span.set_attribute(Attribute.ERROR, type(raised).__name__)
    span.set_status(StatusCode.ERROR)


def answered(span: Span, result: Body) -> None:
    """Note whether a tool's result says of itself that the tool failed."""
    if is_error(result):
        span.set_attribute(Attribute.ERROR, TOOL_ERROR)
        span.set_status(StatusCode.ERROR)


def travelling(context: SpanContext) -> Trace:
    """What OpenTelemetry has in numbers, as it travels."""
    trace_id, span_id, _, flags, state, _ = context
    return Trace(f"00-{trace_id:032x}-{span_id:016x}-{flags & 1:02x}", state.to_header() if state else "")


def context_of(trace: Trace) -> SpanContext:
    """The same as OpenTelemetry has it."""
    said = trace.traceparent
    flags = _SAMPLED if trace.sampled else _NOT_SAMPLED
    state = TraceState.from_header([trace.tracestate]) if trace.tracestate else _NO_STATE
    return SpanContext(int(said[3:35], 16), int(said[36:52], 16), True, flags, state)
