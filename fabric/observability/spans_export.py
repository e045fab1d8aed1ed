"""Where spans go: to the stream that keeps the last hour, and over OTLP to a backend, if there is one.

Above: `tracing`. Below: the transport; OpenTelemetry's own batches and exporter. Nobody ever waits for it: what cannot
be sent now is dropped, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from fabric.observability.spans import Kept, Span
from fabric.observability.spans_wire import batches
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import SPANS
from fabric_sdk.jetstream import JetStream

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.5
"""A trace can be looked at so long after it ended."""
_AGAIN_SECONDS: Final = 30.0
"""Between two attempts to find JetStream."""


class Backend(Protocol):
    """Takes spans at once, and sends them when it can."""

    def take(self, spans: Sequence[Span]) -> None:
        """Take these spans, or drop them."""
        ...


class Exporting:
    """Sends on what was kept, until it is cancelled."""

    def __init__(
        self, jetstream: JetStream, kept: Kept, resource: Mapping[str, str], backend: Backend | None = None
    ) -> None:
        self._jetstream = jetstream
        self._kept = kept
        self._resource = dict(resource)
        self._backend = backend
        self._look_at = 0.0

    async def run(self) -> None:
        """Send on what ends, twice a second."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if len(self._kept):
                await self.flush()

    async def flush(self) -> None:
        """Send on what has ended."""
        spans = self._kept.take()
        if not spans:  # at the end there may be no broker to ask, and nothing to ask it for
            return
        if self._backend is not None:
            self._backend.take(spans)
        if not await self._stream_is_there():
            self._kept.dropped += len(spans)
            return
        sent = 0
        for batch in batches(self._resource, spans):
            try:
                # Nobody is asked whether it was stored: to lose one is better than to wait.
                message = Message(batch.subject, Body(encoded=batch.encoded))
                await self._jetstream.transport.publish(message)
            except errors.FabricError as unfit:
                log.debug("%d spans were dropped: %s", batch.spans, unfit)
            else:
                sent += batch.spans
        self._kept.dropped += len(spans) - sent

    async def _stream_is_there(self) -> bool:
        """Whether there is somebody to keep spans now; a broker without JetStream is not asked every time.

        JetStream is asked anew after each connection: the stream is in memory, and gone with a broker that restarted.
        """
        now = asyncio.get_running_loop().time()
        if not self._jetstream.transport.connected or now < self._look_at:
            return False
        try:
            await self._jetstream.ensure(SPANS)
        except errors.FabricError as without:
            log.info("spans are not kept: %s", without)
            self._look_at = now + _AGAIN_SECONDS
            return False
        return True
