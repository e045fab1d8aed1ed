"""Schemas of events: what is published on a topic fits its latest version; a version that breaks readers is refused.

Guarantee: **no event is stored that does not fit** the version its publisher knew, and versions of one topic follow
each other by compare-and-set: two authors cannot both write the next one.

Above: events, the command line. Below: JetStream, which keeps every version, and jsonschema-rs, which validates.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

import jsonschema_rs
import orjson

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.event import checked_topic
from fabric_sdk.contracts.streams import SCHEMAS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import JetStream, StoredMessage, WrongSequence
from fabric_sdk.routing.compatibility import Break, breaks, same
from fabric_sdk.transports.base import ConnectionEvent, Subscription

log = logging.getLogger(__name__)

Compatibility = Literal["full", "backward", "forward", "none"]
COMPATIBILITIES: Final[tuple[Compatibility, ...]] = ("full", "backward", "forward", "none")
_MOST_KNOWN: Final = 10_000
"""Topics whose schema, or the lack of one, is remembered."""


class IncompatibleSchema(errors.InvalidParams):
    """The new version would break readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One version of a topic's schema."""

    topic: str
    version: int
    schema: dict[str, Any]
    compatibility: Compatibility
    registered: float
    """Unix time in seconds."""

    @property
    def uri(self) -> str:
        """How events name it."""
        return f"fabric:schemas/{self.topic}/{self.version}"


class Schemas:
    """Registers, shows and applies schemas."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._known: dict[str, tuple[Schema, Any] | None] = {}
        self._changes = 0
        """How often something was heard that may contradict what is being read."""
        self._opening = asyncio.Lock()
        self._hearing: Subscription | None = None
        self._stop_listening = jetstream.transport.listen(self._connection_changed)

    async def close(self) -> None:
        """Hear no more."""
        self._stop_listening()
        if self._hearing is not None:
            await self._hearing.close()

    async def register(
        self, topic: str, schema: Mapping[str, Any], compatibility: Compatibility | None = None
    ) -> Schema:
        """Make `schema` the latest version of the topic's; the same one again changes nothing.

        Args:
            topic: words between dots.
            schema: JSON Schema 2020-12, without references to elsewhere.
            compatibility: what every later version must keep, too: `full` unless said otherwise (readers of the old
                version read new events, readers of the new one read old events), `forward` (the first alone),
                `backward` (the second alone), `none`.

        Raises:
            IncompatibleSchema: it would break readers; `data` lists where in the schema, and why.
            InvalidParams: it is no JSON Schema.
        """
        if compatibility is not None and compatibility not in COMPATIBILITIES:
            raise errors.InvalidParams(f"compatibility is one of {', '.join(COMPATIBILITIES)}, not {compatibility!r}")
        wanted = _plain(schema)
        _validator(wanted)
        while True:
            latest, place = await self._last(checked_topic(topic))
            kept = compatibility or (latest.compatibility if latest else "full")
            if latest is not None:
                if same(latest.schema, wanted) and latest.compatibility == kept:
                    return latest
                _refuse_breaks(latest, wanted, kept)
            version = latest.version + 1 if latest else 1
            new = Schema(topic=topic, version=version, schema=wanted, compatibility=kept, registered=time.time())
            body = Body({"version": version, "schema": wanted, "compatibility": kept, "registered": new.registered})
            try:
                await self._jetstream.store(subjects.schema(topic), body, {Header.EXPECTED: str(place)})
            except WrongSequence:
                continue  # somebody registered another in between, or this one; look again
            self._forget(topic)
            return new

    async def latest(self, topic: str) -> Schema | None:
        """The latest version, if there is any."""
        return (await self._last(topic))[0]

    async def find(self, topics: str = ">") -> AsyncGenerator[Schema]:
        """Every version of the schemas of all topics that match, oldest first."""
        await self._jetstream.ensure(SCHEMAS)
        async for message in self._jetstream.every(SCHEMAS, subjects.schema(topics)):
            if (schema := _schema_of(message)) is not None:
                yield schema

    async def list(self, topics: str = ">") -> list[Schema]:
        """All that `find` finds."""
        return [schema async for schema in self.find(topics)]

    async def check(self, topic: str, body: Body) -> str | None:
        """Hold data against the topic's latest schema; returns its URI, or `None` where there is none.

        Raises:
            InvalidParams: the data does not fit.
        """
        known = self._known[topic] if topic in self._known else await self._learn(topic)
        if known is None:
            return None
        schema, validator = known
        try:
            validator.validate(Body(encoded=body.encoded()).value())  # as readers will see it
        except jsonschema_rs.ValidationError as misfit:
            place = "/".join(map(str, misfit.instance_path)) or "the whole"
            raise errors.InvalidParams(f"the event does not fit {schema.uri}: {place}: {misfit.message}") from None
        return schema.uri

    async def _learn(self, topic: str) -> tuple[Schema, Any] | None:
        """Read the latest version, and remember it until another one is registered."""
        async with self._opening:
            if self._hearing is None:
                self._hearing = await self._jetstream.transport.subscribe(subjects.SCHEMAS_TOLD, self._registered)
        before = self._changes
        latest = await self.latest(topic)
        known = (latest, _validator(latest.schema)) if latest else None
        if before == self._changes:  # else what was read may be out of date already; it is read again next time
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[topic] = known
        return known

    async def _last(self, topic: str) -> tuple[Schema | None, int]:
        """The latest version, and the topic's last place; 0 where there is none."""
        await self._jetstream.ensure(SCHEMAS)
        found = await self._jetstream.last(SCHEMAS, subjects.schema(topic))
        if found is None:
            return None, 0
        if (latest := _schema_of(found)) is None:  # none of ours must not stand before one that is
            log.warning("what was written last as the schema of %s is none, and is passed over", topic)
            latest = None
            async for schema in self.find(topic):
                latest = schema
        return latest, found.sequence

    def _registered(self, message: Message) -> None:
        self._forget(subjects.registered_topic(message.subject))

    def _forget(self, topic: str) -> None:
        self._known.pop(topic, None)
        self._changes += 1

    def _connection_changed(self, event: ConnectionEvent) -> None:
        self._known.clear()  # what was registered meanwhile was not heard
        self._changes += 1


def _refuse_breaks(latest: Schema, new: dict[str, Any], kept: Compatibility) -> None:
    """Raise `IncompatibleSchema` for what `new` would break."""
    found: list[tuple[str, Break]] = []
    if kept in ("full", "forward"):
        found += [(f"readers of version {latest.version}", each) for each in breaks(reader=latest.schema, writer=new)]
    if kept in ("full", "backward"):
        found += [("readers of old events", each) for each in breaks(reader=new, writer=latest.schema)]
    if found:
        told = "; ".join(f"{each.path}: {each.why} (breaks {whom})" for whom, each in found[:5])
        raise IncompatibleSchema(
            f"{latest.topic} version {latest.version + 1} is not {kept}-compatible: {told}",
            fix="make it fit, or publish on a new topic",
            data=[{"path": each.path, "why": each.why, "breaks": whom} for whom, each in found],
        )


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` as it will be read: JSON, and nobody else's to change."""
    try:
        return Body(encoded=orjson.dumps(schema)).members()
    except (TypeError, ValueError) as unfit:
        raise errors.InvalidParams(f"this is no JSON Schema: {unfit}") from None


def _validator(schema: dict[str, Any]) -> Any:
    """What holds data against `schema`."""
    try:
        return jsonschema_rs.Draft202012Validator(schema, retriever=_nowhere)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as wrong:
        raise errors.InvalidParams(f"this is no JSON Schema: {str(wrong).splitlines()[0]}") from None


def _nowhere(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is elsewhere; a schema must be whole in itself")


def _schema_of(message: StoredMessage) -> Schema | None:
    """The version in a stored message, unless it is none of ours."""
    try:
        said = message.body.members()
        _validator(said["schema"])
        stated = said.get("compatibility")
        return Schema(
            topic=message.subject.removeprefix(subjects.schema("")),
            version=int(said["version"]),
            schema=said["schema"],
            compatibility=stated if stated in COMPATIBILITIES else "full",
            registered=float(said.get("registered", 0.0)),
        )
    except (ValueError, LookupError, TypeError, OverflowError, errors.InvalidParams):
        return None
