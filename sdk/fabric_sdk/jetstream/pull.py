"""Pulling from a consumer: a loop of our own that no lost answer can silence.

Above: the worker's takers. Below: the seam. A pull asks the server for so many messages; each counts the request
down, a status ends it. The server beats while it has nothing to send: when two beats are missed, or the connection
returns, what was asked counts as lost and is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import orjson

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import GROUP, Consumer
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream.api import JetStream
from fabric_sdk.transports.base import ConnectionEvent, Subscription

log = logging.getLogger(__name__)

_BEAT_SECONDS: Final = 2.0
_EXPIRES_SECONDS: Final = 30.0
_SECOND: Final = 1_000_000_000
_PENDING: Final = "Nats-Pending-Messages"
_BEAT_STATUS: Final = "100"


class Delivery:
    """One message from a consumer, until it is acknowledged one way or another."""

    __slots__ = ("_jetstream", "attempt", "message", "order", "pending", "sequence", "stored")

    def __init__(self, jetstream: JetStream, message: Message) -> None:
        self._jetstream = jetstream
        self.message = message
        # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.…; with a domain and an account, two tokens later
        tokens = message.reply.split(".")
        base = 4 if len(tokens) == 9 else 6
        self.attempt = int(tokens[base])
        """How often it has been delivered, this time included."""
        self.sequence = int(tokens[base + 1])
        """Its place in the stream."""
        self.order = int(tokens[base + 2])
        """Its place in what the consumer delivers: one more than that of the one before."""
        self.pending = int(tokens[base + 4])
        """How many are still to come."""
        self.stored = int(tokens[base + 3]) / _SECOND
        """When it came there: Unix time in seconds."""

    async def ack(self) -> None:
        """Done: remove it."""
        await self._say(b"+ACK")

    async def nak(self, delay: float = 0.0) -> None:
        """Not done: deliver it again, `delay` seconds from now."""
        await self._say(b'-NAK {"delay": %d}' % int(delay * _SECOND) if delay > 0 else b"-NAK")

    async def extend(self) -> None:
        """Still at it: the time for it begins anew."""
        await self._say(b"+WPI")

    async def terminate(self, reason: str) -> None:
        """Never again; the server tells the reason to whoever listens to its advisories."""
        await self._say(b"+TERM " + " ".join(reason.split()).encode()[:256])

    async def _say(self, what: bytes) -> None:
        try:
            await self._jetstream.transport.publish(Message(self.message.reply, Body(encoded=what)))
        except errors.TransportUnavailable:
            log.debug("%r could not be said; the message will be delivered again", what)


class Pull:
    """One consumer, asked for as many messages as are wanted; each is handed to `receive` at once."""

    def __init__(self, jetstream: JetStream, consumer: Consumer, receive: Callable[[Delivery], None]) -> None:
        self.outstanding = 0
        """Messages asked for that have not come yet."""
        self.lost = False
        """Whether the server said, or its silence, that there may be no such consumer any more."""
        self.ack_wait = consumer.ack_wait
        """As the consumer was made, which may have been by somebody else."""
        self._jetstream = jetstream
        self._consumer = consumer
        self._receive = receive
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream.name}.{consumer.name}"
        self._inbox = subjects.inbox(uuid4().hex, 0)
        self._heard = 0.0
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Find the consumer, or make it."""
        self._loop = asyncio.get_running_loop()
        self.ack_wait = await self._jetstream.ensure_consumer(self._consumer)
        self._subscription = await self._jetstream.transport.subscribe(self._inbox, self._take)
        self._stop_listening = self._jetstream.transport.listen(self._connection_changed)

    async def close(self) -> None:
        """Take no more. What was sent by then has been received when this returns."""
        if self._subscription is not None:
            self._stop_listening()
            await self._subscription.close()

    async def ask(self, count: int, *, last: bool = False) -> None:
        """Ask for `count` messages more; with `last`, for what nobody else wants who asks without."""
        wanted: dict[str, Any] = {
            "batch": count,
            "expires": int(_EXPIRES_SECONDS * _SECOND),
            "idle_heartbeat": int(_BEAT_SECONDS * _SECOND),
        }
        if self._consumer.ack_wait:  # a reader shares with nobody
            wanted |= {"group": GROUP, "priority": 9 if last else 0}
        self.outstanding += count
        self._heard = self._loop.time()
        try:
            await self._jetstream.transport.publish(
                Message(self._subject, Body(encoded=orjson.dumps(wanted)), reply=self._inbox)
            )
        except errors.TransportUnavailable:
            self.outstanding -= min(count, self.outstanding)

    async def look(self) -> None:
        """Notice that the server fell silent, or lost the consumer; to be called about once a second."""
        if self.silent:
            self.outstanding, self.lost = 0, True
        if self.lost:
            try:
                self.ack_wait = await self._jetstream.ensure_consumer(self._consumer, again=True)
                self.lost = False
            except errors.FabricError as away:
                log.debug("%s cannot be pulled from: %s", self._consumer.name, away)

    @property
    def silent(self) -> bool:
        """Whether the server has not even said for long that there is nothing."""
        return self.outstanding > 0 and self._loop.time() - self._heard > 2.5 * _BEAT_SECONDS

    def _take(self, message: Message) -> None:
        self._heard = self._loop.time()
        headers = message.headers
        if headers and (status := headers.get(Header.STATUS)) is not None and message.subject == self._inbox:
            if status != _BEAT_STATUS:
                self._ended(status, headers.get(_PENDING))
            return
        self.outstanding -= 1 if self.outstanding else 0
        try:
            delivery = Delivery(self._jetstream, message)
        except (ValueError, IndexError):
            log.warning("a message that came from no consumer was dropped")
            return
        self._receive(delivery)

    def _ended(self, status: str, pending: str | None) -> None:
        """A request ended; what it leaves unserved is no longer outstanding."""
        unserved = int(pending) if pending and pending.isdecimal() else self.outstanding
        self.outstanding -= min(unserved, self.outstanding)
        if status not in ("404", "408"):
            self.lost = True
            log.debug("a pull from %s ended with %s", self._consumer.name, status)

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self.outstanding = 0  # the server forgot what it was asked
