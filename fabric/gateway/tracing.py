"""Spans of what the gateway serves: one for each request that is traced, whichever door it came by.

Above: `modern`, `errands` (for `legacy`), `rest`. Below: `Sampling`, which decides first, and the SDK's spans. For a
request that is not traced there is nothing here but one question.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.trace import Span, SpanKind, StatusCode

from fabric.gateway.rpc import Refusal
from fabric.identity.identity import Identity
from fabric.observability.otel import disabled
from fabric.observability.tracing_sampling import Sampling, declined
from fabric_sdk import tracing
from fabric_sdk.contracts.conventions import Attribute, named, title
from fabric_sdk.contracts.scope import Trace

_LONGEST: Final = 128
"""Characters of what a client wrote that go into a span."""


class Tracing:
    """Begins spans, for few."""

    def __init__(self, rate: float) -> None:
        self._sampling = Sampling(0.0)
        self.sample(rate)
        self.takes = self._sampling.takes
        """Whether a request that came in this trace is to have a span."""

    def sample(self, rate: float) -> None:
        """From now on, trace this share of the requests whose clients say nothing."""
        self._sampling.rate = 0.0 if disabled() else rate

    def begin(
        self,
        trace: Trace | None,
        method: str,
        target: str,
        identity: Identity,
        *,
        request: bytes = b"",
        version: str = "",
    ) -> Span:
        """The span of a request that is taken."""
        method, target = method[:_LONGEST], target[:_LONGEST]
        about = {**named(method, target), Attribute.USER: identity.principal}
        if version:
            about[Attribute.PROTOCOL] = version
        if request:
            about[Attribute.REQUEST] = request.decode().strip('"')[:_LONGEST]
        return tracing.begin(title(method, target), SpanKind.SERVER, trace, about)

    @staticmethod
    def passed_on(trace: Trace | None, span: Span | None) -> Trace | None:
        """The trace that a request goes on in."""
        if span is not None:
            return tracing.trace_of(span, trace)
        return None if trace is None else declined(trace)


def failed(span: Span | None, failure: BaseException) -> None:
    """Note why a request came to nothing."""
    if span is None:
        return
    if isinstance(failure, Refusal):
        span.set_attributes({Attribute.ERROR: str(failure.code), Attribute.STATUS: str(failure.code)})
        span.set_status(StatusCode.ERROR)
    else:
        tracing.failed(span, failure)


def note(span: Span | None, what: str, **about: str) -> None:
    """Note what happened on a request's way."""
    if span is not None:
        span.add_event(what, {f"fabric.{name}": value for name, value in about.items()})
