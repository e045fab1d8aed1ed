"""Events: what happened, told to whoever wants to know, now and later.

Guarantee: **what was accepted is kept for a week and read in order**. A durable group gets each event at least once,
until one of its members acknowledges it; a reader without a group sees each once, in order, from where it began.

Above: `client`, workers. Below: JetStream, schemas, CEL. Topics with wildcards are filtered by the broker, content by
the subscriber's own expression, before its code sees an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import uuid4

from fabric_sdk import tracing
from fabric_sdk.cancelling import end
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.conventions import Attribute
from fabric_sdk.contracts.envelope import Message, stated
from fabric_sdk.contracts.errors import FabricError, InvalidParams, QueueFull, TransportUnavailable
from fabric_sdk.contracts.event import Event, checked_topic, checked_topics
from fabric_sdk.contracts.scope import current_effects
from fabric_sdk.contracts.streams import EVENTS, group_lane
from fabric_sdk.contracts.subjects import Header, checked_token
from fabric_sdk.jetstream import ClaimLost, Claims, Delivery, JetStream, Pull, Reader
from fabric_sdk.patterns.schema import Schemas
from fabric_sdk.routing.expressions import Expression

log = logging.getLogger(__name__)

_AHEAD: Final = 256
"""Events that a member of a group takes at once, at most: so many as it gets done in a second; others get the rest."""
_AHEAD_BYTES: Final = 16 * 1024 * 1024
"""And how much that may be, all as large as the largest that came."""
_CLAIM_SECONDS: Final = 8 * 86_400.0
"""For so long the data of a large event is kept: a day longer than the event."""
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a subscriber wants."""

    topics: tuple[str, ...]
    """Patterns: `orders.*`, `orders.>`."""
    filter: Expression | None = None
    transform: Expression | None = None
    start: datetime | int | Literal["new", "all"] = "new"
    """Where to begin: with what is published from now on, with all that is kept, at a time, or at a place."""
    original_speed: bool = False
    """Whether events come as far apart as they were published."""

    def __post_init__(self) -> None:
        checked_topics(self.topics)
        if isinstance(self.start, datetime):
            _checked_time(self.start)
        elif not isinstance(self.start, int) and self.start not in ("new", "all"):
            raise InvalidParams(f"{self.start!r} is no place to begin", fix="give a time, a sequence, `new` or `all`")

    def policy(self) -> dict[str, Any]:
        """Where a consumer begins, in JetStream's words."""
        replay = {"replay_policy": "original" if self.original_speed else "instant"}
        if isinstance(self.start, datetime):
            return replay | {"deliver_policy": "by_start_time", "opt_start_time": self.start.isoformat()}
        if isinstance(self.start, int):
            return replay | {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, self.start)}
        return replay | {"deliver_policy": self.start}


class Received(Event):
    """An event, as a subscriber gets it: with its data transformed, and to be acknowledged if it came to a group."""

    __slots__ = ("_delivery", "_original", "_transform", "_transformed", "settled")

    def __init__(self, event: Event, delivery: Delivery | None, transform: Expression | None) -> None:
        for name in Event.__slots__:
            setattr(self, name, getattr(event, name))
        self._original = event
        self._delivery = delivery
        self._transform = transform
        self._transformed: list[Any] = []
        self.settled = delivery is None
        """Whether it was acknowledged, one way or another; without a group there is nothing to."""

    @property
    def data(self) -> Any:
        """What is said of it, as the subscriber's transformation shows it.

        Raises:
            TransformationFailed: the transformation does not fit this event.
        """
        if self._transform is None:
            return self._body.value()
        if not self._transformed:
            self._transformed.append(self._transform.transformed(self._original))
        return self._transformed[0]

    async def ack(self) -> None:
        """Done with it: the group gets it no more."""
        if self._delivery is not None and not self.settled:
            self.settled = True
            await self._delivery.ack()

    async def nak(self, delay: float = 0.0) -> None:
        """Not done: the group gets it again, `delay` seconds from now."""
        if self._delivery is not None and not self.settled:
            self.settled = True
            await self._delivery.nak(delay)

    async def extend(self) -> None:
        """Still at it. Said by itself while the subscriber's loop holds the event."""
        if self._delivery is not None and not self.settled:
            await self._delivery.extend()


class Events:
    """Publishes and subscribes."""

    def __init__(self, jetstream: JetStream, schemas: Schemas) -> None:
        self._jetstream = jetstream
        self._schemas = schemas
        self._claims = Claims(jetstream)
        self.source = "/clients"
        """Where what is published here happened, unless said otherwise."""

    async def publish(self, topic: str, data: Any, *, id: str | None = None, subject: str | None = None) -> Event:
        """Tell what happened: returns once the server has it on the disk.

        Args:
            topic: words between dots.
            data: a JSON value; where a schema is registered for the topic, one that fits it.
            id: names the event among those of its topic; published again within two minutes, it changes nothing.
                In a task, the same data has the same id in every attempt, unless said otherwise.
            subject: what it happened to.

        Raises:
            InvalidParams: the topic or a name is none, or the data is no JSON value or does not fit the topic's schema.
            QueueFull: the stream takes no more.
            TransportUnavailable: the server did not answer; with the same id it may be published again.
        """
        if "" in (id, subject):
            raise InvalidParams("an event's id and subject are words, or left out")
        body = stated("the event's data", data)
        schema = await self._schemas.check(checked_topic(topic), body)
        effects = current_effects.get()
        named = effects if id is None else None
        if id is None:
            id = effects.name("publish", topic, body.encoded().decode()) if effects else uuid4().hex
        event = Event(topic, body, id=id, source=self.source, subject=subject, schema=schema)
        try:
            with _told(event):
                event.sequence = await self._store(event)
        except FabricError:
            if named:
                named.take_back(id)
            raise
        return event

    async def _store(self, event: Event) -> int:
        """Put an event on the disk; its place there."""
        body = event.body
        await self._jetstream.ensure(EVENTS)
        message = event.message()
        if self._claims.are_needed_for(len(body.encoded())):
            claim = await self._claims.keep(body.encoded(), _CLAIM_SECONDS)
            message = Message(message.subject, headers={**(message.headers or {}), Header.CLAIM: claim})
        claim = message.header(Header.CLAIM)
        try:
            stored = await self._jetstream.store(message.subject, message.body, message.headers)
            if claim and stored.duplicate:
                await self._drop_leftover(claim, stored.sequence)
        except QueueFull:
            if claim:
                await self._claims.drop(claim)
            raise
        return stored.sequence

    async def _drop_leftover(self, claim: str, sequence: int) -> None:
        """Drop the data of a repetition, unless it is this very one that was stored, and its answer was lost."""
        first = await self._jetstream.at(EVENTS, sequence)
        if first is None or first.headers.get(Header.CLAIM) != claim:
            await self._claims.drop(claim)

    @asynccontextmanager
    async def read(self, interest: Interest) -> AsyncGenerator[AsyncGenerator[Received]]:
        """Events in order, for this reader alone; nothing is acknowledged, nothing remembered."""
        reader = self._reader(interest)
        await reader.open()
        pace = _Pace() if interest.original_speed else None

        async def events() -> AsyncGenerator[Received]:
            async for delivery in reader:
                if pace is not None:
                    await pace.wait(delivery)
                if (event := await self._received(delivery, interest)) is not None:
                    yield event

        async with _closing(events(), reader) as stream:
            yield stream

    @asynccontextmanager
    async def replay(
        self, interest: Interest, until: datetime | int | None
    ) -> AsyncGenerator[AsyncGenerator[Received]]:
        """Events in order, from where the interest begins, to `until` (a time, a place, or the end as it is now)."""
        beyond = await self._beyond(interest, until)  # first: what is published in between comes after the end
        reader = self._reader(interest)
        left = await reader.open() - beyond
        pace = _Pace() if interest.original_speed else None

        def is_beyond(delivery: Delivery) -> bool:
            if isinstance(until, datetime):
                return delivery.stored > until.timestamp()
            return until is not None and delivery.sequence > until

        async def events() -> AsyncGenerator[Received]:
            if left <= 0:
                return
            async for delivery in reader:
                if is_beyond(delivery):
                    return
                if pace is not None:
                    await pace.wait(delivery)
                if (event := await self._received(delivery, interest)) is not None:
                    yield event
                if reader.seen >= left or not delivery.pending:
                    return

        async with _closing(events(), reader) as stream:
            yield stream

    @asynccontextmanager
    async def subscribe(self, interest: Interest, group: str) -> AsyncGenerator[AsyncGenerator[Received]]:
        """Events of a durable group: each goes to one member, again and again until one acknowledges it."""
        async with Membership(self._jetstream, interest, group) as membership:
            stream = membership.events()
            try:
                yield stream
            finally:
                await stream.aclose()

    async def _beyond(self, interest: Interest, until: datetime | int | None) -> int:
        """How many events there are after `until`: at its own speed, a replay should not wait for one of them."""
        if until is None:
            return 0
        after = until + 1 if isinstance(until, int) else _checked_time(until) + timedelta(microseconds=1)
        reader = self._reader(replace(interest, start=after))
        beyond = await reader.open()
        await reader.close()
        return beyond

    async def _received(self, delivery: Delivery, interest: Interest) -> Received | None:
        await _fill(self._claims, delivery)
        return _received(delivery, interest, None)

    def _reader(self, interest: Interest) -> Reader:
        wanted = tuple(map(subjects.event, interest.topics))
        return Reader(self._jetstream, EVENTS, wanted, {**interest.policy(), "replay_policy": "instant"})


class _Pace:
    """Lets events come as far apart as they were stored; kept here, since a server that waits says nothing, not even
    that it lives."""

    def __init__(self) -> None:
        self._shift: float | None = None

    async def wait(self, delivery: Delivery) -> None:
        """Return when it is time for `delivery`."""
        now = asyncio.get_running_loop().time()
        if self._shift is None:
            self._shift = now - delivery.stored
        await asyncio.sleep(max(0.0, self._shift + delivery.stored - now))


class Membership:
    """One member of a durable group. What it has in hand stays its own while it lives, and goes to others when not."""

    def __init__(self, jetstream: JetStream, interest: Interest, group: str) -> None:
        self._jetstream = jetstream
        self._consumer = group_lane(checked_token(group), interest.topics, interest.policy())
        self._interest = interest
        self._claims = Claims(jetstream)
        self._pull = Pull(jetstream, self._consumer, self._take)
        self._ahead = 1
        self._largest = 1
        self._asked = 0.0
        self._waiting: deque[Delivery] = deque()
        self._held: Received | None = None
        self._came = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Membership:
        try:
            await self._pull.open()
            await self._want()
        except BaseException:
            await self._pull.close()
            raise
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeping is not None:
            await end([self._keeping])
        await self._pull.close()
        if self._held is not None:
            await self._held.nak()
        for delivery in self._waiting:
            await delivery.nak()

    async def events(self) -> AsyncGenerator[Received]:
        """The events; each is acknowledged when the next one is asked for, unless that was done otherwise."""
        while True:
            while not self._waiting:
                await self._more()
            delivery = self._waiting[0]
            await _fill(self._claims, delivery)  # still waiting, it is extended meanwhile, and given back at the end
            self._waiting.popleft()
            event = _received(delivery, self._interest, delivery)
            if event is None:
                await delivery.ack()
                continue
            self._held = event
            yield event
            await event.ack()
            self._held = None

    def _take(self, delivery: Delivery) -> None:
        self._largest = max(self._largest, len(delivery.message.body.encoded()))
        self._waiting.append(delivery)
        self._came.set()

    async def _want(self) -> None:
        """See to it that the group gets the topics of its latest member: they may have changed with its program."""
        name, wanted = f"{EVENTS.name}.{self._consumer.name}", self._consumer.options["filter_subjects"]
        config = (await self._jetstream.request(f"CONSUMER.INFO.{name}"))["config"]
        if sorted(config.get("filter_subjects") or [config.get("filter_subject", "")]) != sorted(wanted):
            config = {**config, "filter_subjects": wanted}
            config.pop("filter_subject", None)
            about = {"stream_name": EVENTS.name, "config": config, "action": "update"}
            await self._jetstream.request(f"CONSUMER.CREATE.{name}", about)

    async def _more(self) -> None:
        self._came.clear()
        if not self._pull.outstanding:
            now = asyncio.get_running_loop().time()
            quick = now - self._asked < _LOOK_SECONDS
            most = min(2 * self._ahead, _AHEAD, _AHEAD_BYTES // self._largest)
            self._ahead = max(1, most if quick else self._ahead // 2)
            self._asked = now
            await self._pull.ask(self._ahead)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._came.wait()
        await self._pull.look()

    async def _keep(self) -> None:
        """Say for all in hand that they are still being worked on; give back what waits behind one that takes long."""
        while True:
            before = self._held
            await asyncio.sleep(self._pull.ack_wait / 3)
            if self._held is not None:
                await self._held.extend()
            while self._waiting and self._held is not None and self._held is before:
                await self._waiting.popleft().nak()
            for delivery in list(self._waiting):
                await delivery.extend()


@contextmanager
def _told(event: Event) -> Generator[None]:
    """A span for the publication, if its trace is sampled: whatever it leads to is below it."""
    trace = tracing.current_trace()
    if trace is not None and trace.sampled:
        with tracing.sending(
            "publish", event.topic, trace, f"fab.event.{event.topic}", {Attribute.MESSAGE: event.id}
        ) as span:
            trace = tracing.trace_of(span, trace)
            event.traceparent = trace and trace.traceparent
            yield
        return
    event.traceparent = trace and trace.traceparent
    yield


async def _fill(claims: Claims, delivery: Delivery) -> None:
    """Fetch the data of an event that was too large for one message, however long there is no broker."""
    message = delivery.message
    if not message.headers or (claim := message.headers.get(Header.CLAIM)) is None:
        return
    while True:
        try:
            message.body = await claims.redeem(claim)
            return
        except ClaimLost:
            return  # it is passed over, as what has no data
        except TransportUnavailable as away:
            if not away.retryable:
                raise
        await asyncio.sleep(_LOOK_SECONDS)


def _received(delivery: Delivery, interest: Interest, acknowledged: Delivery | None) -> Received | None:
    """The event in a delivery, if it is wanted."""
    event = Event.of(delivery.message, delivery.sequence, delivery.stored)
    try:
        event.data  # noqa: B018 - it is JSON or it is nothing to us
    except ValueError:
        log.warning("event %s is no JSON and was passed over", event.id)
        return None
    if interest.filter is not None and not interest.filter.accepts(event):
        return None
    return Received(event, acknowledged, interest.transform)


@asynccontextmanager
async def _closing(stream: AsyncGenerator[Received], reader: Reader) -> AsyncGenerator[AsyncGenerator[Received]]:
    try:
        yield stream
    finally:
        await stream.aclose()
        await reader.close()


def _checked_time(when: datetime) -> datetime:
    if when.tzinfo is None:
        raise InvalidParams("a time needs its zone", fix="write datetime.now(UTC), or .astimezone()")
    return when


def interest(topics: str | Sequence[str], **how: Any) -> Interest:
    """What a subscriber wants, from its own words: expressions as text, times as datetime.

    Raises:
        InvalidParams: a topic, an expression or a time is none.
    """
    for name in ("filter", "transform"):
        how[name] = Expression(how[name]) if how.get(name) else None
    return Interest(topics=(topics,) if isinstance(topics, str) else tuple(topics), **how)
