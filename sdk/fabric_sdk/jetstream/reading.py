"""Reading a stream in order: no gap and no repetition, through lost messages and restarts.

Above: events, tables, and whoever reads a stream to its end. Below: the pull loop. The server numbers what it delivers;
where a number is missing, or the consumer is gone with the server that held it, a new one begins after the last message
that came.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.streams import Consumer, Stream, reading
from fabric_sdk.jetstream.api import PATIENCE, JetStream, Missing
from fabric_sdk.jetstream.pull import Delivery, Pull
from fabric_sdk.transports.base import ConnectionEvent

_AHEAD: Final = 1024
"""Messages that are read before they are asked for, at most …"""
_AHEAD_BYTES: Final = 16 * 1024 * 1024
"""… and how much that may be, all as large as the largest that came; a few at least are read ahead."""
_AT_FIRST: Final = 64
_AT_LEAST: Final = 4
_LOOK_SECONDS: Final = 1.0
_MADE_SECONDS: Final = 2.5
"""In which a consumer is made, where one can be; a broker that is busy gets twice as long with each further attempt."""


class Reader:
    """One pass over a stream: `async for delivery in reader`."""

    def __init__(self, jetstream: JetStream, stream: Stream, wanted: tuple[str, ...], start: Mapping[str, Any]) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._wanted = wanted
        self._start = dict(start)
        self._waiting: deque[Delivery] = deque()
        self._came = asyncio.Event()
        self._order: int = 0
        self._last = 0
        self._ahead = _AT_FIRST
        self._largest = 1
        self._gap = -1
        """After which message one was missing, if no connection was lost since that could be to blame."""
        self.seen = 0
        """Messages that were read."""
        self._pull: Pull | None = None
        self._consumer: Consumer | None = None

    async def open(self) -> int:
        """Begin; returns how many messages there are to read until now."""
        self._stop_listening = self._jetstream.transport.listen(self._connection_changed)
        try:
            await self._jetstream.ensure(self._stream)
            if self._start.get("deliver_policy") == "new":  # in our own words, to be the same when it begins again
                last = await self._jetstream.end_of(self._stream)
                self._start |= {"deliver_policy": "by_start_sequence", "opt_start_seq": last + 1}
            return await self._begin(self._start)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop."""
        self._stop_listening()
        await self._end()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Delivery:
        while not self._waiting:
            await self._more()
        delivery = self._waiting.popleft()
        self.seen += 1
        if self._pull is not None and len(self._waiting) + self._pull.outstanding <= self._ahead // 2:
            await self._ask(self._pull)
        return delivery

    async def _ask(self, pull: Pull) -> None:
        self._ahead = max(_AT_LEAST, min(2 * self._ahead, _AHEAD, _AHEAD_BYTES // self._largest))
        if (count := self._ahead - len(self._waiting) - pull.outstanding) > 0:
            await pull.ask(count)

    async def _more(self) -> None:
        """Wait until something came, and see to it that something can."""
        if self._pull is None:
            raise StopAsyncIteration
        if self._jetstream.closed:
            raise errors.TransportClosed("this client was closed while it read")
        self._came.clear()
        if not self._pull.outstanding:
            await self._ask(self._pull)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._came.wait()
        if not self._waiting and (self._order < 0 or self._pull.lost or self._pull.silent):
            await self._again()

    async def _begin(self, start: Mapping[str, Any]) -> int:
        """Have a consumer made, and pull from it.

        It has one copy, which the cluster may give to a server that has just died and is not known to have: that
        consumer answers nobody. So whoever is not answered soon asks for another one, which may be kept elsewhere.
        """
        until, patience = time.monotonic() + PATIENCE, _MADE_SECONDS
        while True:
            try:
                return await self._attempt(start, patience)
            except errors.TransportUnavailable as away:
                if not away.retryable or time.monotonic() > until:
                    raise
                patience *= 2
                await self._end()

    async def _attempt(self, start: Mapping[str, Any], patience: float) -> int:
        consumer = reading(self._stream, f"read-{uuid4().hex}", self._wanted, start)
        self._order, self._consumer = 0, consumer
        self._pull = Pull(self._jetstream, consumer, self._take)
        there_are = await self._jetstream.create_consumer(consumer, patience=patience)
        await self._pull.open()
        return there_are

    async def _again(self) -> None:
        """Begin once more, after the last message that came."""
        self._gap = self._last if self._order < 0 else -1
        start = self._start
        if self._last:
            start = {name: value for name, value in start.items() if not name.startswith(("opt_start", "deliver"))}
            start |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
        await self._end()
        while True:
            try:
                await self._begin(start)
            except (errors.TransportUnavailable, Missing) as away:
                await self._end()
                if isinstance(away, errors.TransportClosed):
                    raise
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return

    async def _end(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None and self._consumer is not None:
            await pull.close()
            await self._jetstream.forget_consumer(self._consumer)

    def _take(self, delivery: Delivery) -> None:
        # What is missing once more, in the same place, does not travel: a foreign message that is no text.
        unreadable = self._order == 0 and self._gap == self._last
        if self._order >= 0 and (delivery.order == self._order + 1 or unreadable):
            self._order, self._last = delivery.order, delivery.sequence
            self._largest = max(self._largest, len(delivery.message.body.encoded()))
            self._waiting.append(delivery)
        else:
            self._order = -1  # one was lost on the way: what comes after it waits for its turn
        self._came.set()

    def _connection_changed(self, event: ConnectionEvent) -> None:
        self._gap = -1
