"""Events fit the schema of their topic; its versions follow each other, and never break a reader. Proves: EV-4."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from support.events import data
from support.nats_server import PrivateNats
from support.waiting import eventually

from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.contracts.streams import EVENTS, Stream
from fabric_sdk.jetstream import StoredMessage
from fabric_sdk.patterns.schema import Compatibility, IncompatibleSchema

pytestmark = pytest.mark.anyio

Schema = dict[str, Any]


def person(*required: str, **properties: Schema) -> Schema:
    named: Schema = {"name": {"type": "string"}, **properties}
    return {"type": "object", "properties": named, "required": ["name", *required]}


async def test_an_event_that_does_not_fit_is_refused_and_not_stored(fabric: Fabric, word: str) -> None:
    topic = f"{word}.a"
    schema = await fabric.schemas.register(topic, person(address={"type": "object", "properties": {"zip": {}}}))
    assert (schema.version, schema.compatibility, schema.uri) == (1, "full", f"fabric:schemas/{topic}/1")
    await fabric.jetstream.ensure(EVENTS)
    before = await fabric.jetstream.end_of(EVENTS)
    misfits: list[tuple[Any, str]] = [
        ({"name": 1}, "name"),
        ({}, "name"),
        ({"name": "x", "address": 5}, "address"),
        ([], "the whole"),
        ({"name": datetime.now(UTC), "address": datetime.now(UTC)}, "address"),
    ]
    for misfit, place in misfits:
        with pytest.raises(InvalidParams, match=f"{topic}/1: .*{place}"):
            await fabric.publish(topic, misfit)
    assert await fabric.jetstream.end_of(EVENTS) == before
    event = await fabric.publish(topic, {"name": datetime.now(UTC), "address": {"zip": None}})
    assert event.schema == schema.uri
    async with fabric.replay(topic) as events:
        assert [each.schema async for each in events] == [schema.uri]
    assert (await fabric.publish(f"{word}.b", {"name": 1})).schema is None


async def test_the_same_schema_again_changes_nothing(fabric: Fabric, other: Fabric, word: str) -> None:
    first = await fabric.schemas.register(f"{word}.a", person())
    again = await other.schemas.register(f"{word}.a", person())
    assert again == first
    await other.schemas.register(f"{word}.b", {"const": 1}, "none")
    assert (await other.schemas.register(f"{word}.b", {"const": True})).version == 2
    listed = await fabric.schemas.list(f"{word}.*")
    assert [(each.topic, each.version) for each in listed] == [
        (f"{word}.a", 1),
        (f"{word}.b", 1),
        (f"{word}.b", 2),
    ]
    assert await fabric.schemas.latest(f"{word}.c") is None


OPTIONAL = person(age={"type": "integer"})
REQUIRED = person("age", age={"type": "integer"})
NULLABLE = {**person(), "properties": {"name": {"type": ["string", "null"]}}}


@pytest.mark.parametrize(
    ("mode", "old", "new", "path"),
    [
        ("full", person(), OPTIONAL, None),
        ("full", OPTIONAL, person(), None),
        ("full", person(), REQUIRED, "/required"),
        ("full", REQUIRED, person(), "/required"),
        ("full", person(), NULLABLE, "/properties/name/type"),
        ("forward", OPTIONAL, REQUIRED, None),
        ("forward", REQUIRED, OPTIONAL, "/required"),
        ("forward", person(), NULLABLE, "/properties/name/type"),
        ("backward", REQUIRED, OPTIONAL, None),
        ("backward", person(), NULLABLE, None),
        ("backward", NULLABLE, person(), "/properties/name/type"),
        ("none", REQUIRED, {"type": "string"}, None),
    ],
)
async def test_a_version_that_breaks_readers_is_refused(
    fabric: Fabric, word: str, mode: Compatibility, old: Schema, new: Schema, path: str | None
) -> None:
    await fabric.schemas.register(f"{word}.a", old, mode)
    if path is None:
        second = await fabric.schemas.register(f"{word}.a", new)
        assert (second.version, second.compatibility) == (2, mode)
        return
    with pytest.raises(IncompatibleSchema, match=path) as refused:
        await fabric.schemas.register(f"{word}.a", new)
    assert path in {each["path"] for each in refused.value.data}
    latest = await fabric.schemas.latest(f"{word}.a")
    assert latest is not None
    assert (latest.version, latest.schema) == (1, old)


async def test_two_registrars_at_once_write_one_version_after_the_other(
    fabric: Fabric, other: Fabric, word: str
) -> None:
    for number in range(10):
        topic = f"{word}.{number}"
        await fabric.schemas.register(topic, person())
        made = await asyncio.gather(
            fabric.schemas.register(topic, person(x={"type": "integer"})),
            other.schemas.register(topic, person(x={"type": "string"})),
            other.schemas.register(topic, person(y={"type": "string"})),
            return_exceptions=True,
        )
        refused = [each for each in made if isinstance(each, BaseException)]
        versions = [each.version for each in made if not isinstance(each, BaseException)]
        latest = await fabric.schemas.latest(topic)
        assert latest is not None
        # `x` cannot be both; whoever comes second is told so, unless a version without it came in between.
        assert sorted(versions) == list(range(2, latest.version + 1))
        assert all(isinstance(each, IncompatibleSchema) for each in refused)
        assert len(refused) + len(versions) == 3


async def test_the_same_registered_at_once_is_one_version(fabric: Fabric, other: Fabric, word: str) -> None:
    made = await asyncio.gather(*(each.schemas.register(word, person()) for each in (fabric, other) * 8))
    assert {each.version for each in made} == {1}


async def test_references_within_the_schema(fabric: Fabric, word: str) -> None:
    node: Schema = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": "integer"}}}
    await fabric.schemas.register(word, {"$defs": {"node": node}, "$ref": "#/$defs/node"})
    await fabric.publish(word, {"value": 1, "next": {"value": 2, "next": {}}})
    with pytest.raises(InvalidParams, match="next/next/value"):
        await fabric.publish(word, {"next": {"next": {"value": "x"}}})
    wider = {**node, "properties": {**node["properties"], "value": {"type": "number"}}}
    with pytest.raises(IncompatibleSchema, match="/properties/value/type"):
        await fabric.schemas.register(word, {"$defs": {"node": wider}, "$ref": "#/$defs/node"})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema.json"},
        {"properties": {"a": {"$ref": "other.json#/$defs/a"}}},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/none"},
        {"type": "strin"},
        {"properties": []},
        {"pattern": "("},
        {"minimum": "1"},
        {"const": object()},
        {1: 2},
    ],
    ids=["remote", "relative", "file", "dangling", "type", "properties", "pattern", "minimum", "object", "key"],
)
async def test_what_is_no_schema_or_reaches_elsewhere_is_refused(fabric: Fabric, word: str, schema: Schema) -> None:
    with pytest.raises(InvalidParams, match="no JSON Schema"):
        await fabric.schemas.register(word, schema)
    assert await fabric.schemas.latest(word) is None


async def test_modes_and_topics_that_are_none_are_refused(fabric: Fabric, word: str) -> None:
    with pytest.raises(InvalidParams, match="compatibility"):
        await fabric.schemas.register(word, {}, "sideways")  # type: ignore[arg-type]
    for topic in ("a.*", ">", "", "a..b"):
        with pytest.raises(InvalidParams, match="topic"):
            await fabric.schemas.register(topic, {})


async def test_publishers_elsewhere_learn_of_a_new_version_at_once(fabric: Fabric, other: Fabric, word: str) -> None:
    assert (await other.publish(word, {"name": "x"})).schema is None
    for version, schema in enumerate((person(), OPTIONAL), 1):
        await fabric.schemas.register(word, schema)
        await asyncio.gather(fabric.transport.flush(), other.transport.flush())
        assert (await other.publish(word, {"name": "x"})).schema == f"fabric:schemas/{word}/{version}"
    with pytest.raises(InvalidParams, match="age"):
        await other.publish(word, {"name": "x", "age": "old"})


async def test_a_version_that_comes_while_the_latest_is_read_is_not_missed(
    fabric: Fabric, other: Fabric, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fabric.schemas.register(word, person())
    last = other.jetstream.last

    async def slowly(stream: Stream, subject: str) -> StoredMessage | None:
        monkeypatch.undo()
        found = await last(stream, subject)
        await fabric.schemas.register(word, OPTIONAL)
        await other.transport.flush()
        return found

    monkeypatch.setattr(other.jetstream, "last", slowly)
    assert (await other.publish(word, {"name": "x"})).schema == f"fabric:schemas/{word}/1"
    assert (await other.publish(word, {"name": "x"})).schema == f"fabric:schemas/{word}/2"


async def test_a_publisher_learns_what_was_registered_while_it_was_away(breakable: PrivateNats) -> None:
    async with Fabric.connect(breakable.url) as away:
        assert (await away.publish("a", {"name": 1})).schema is None
        lost = asyncio.Event()
        away.transport.listen(lambda event: lost.set() if event == "disconnected" else None)
        await asyncio.to_thread(breakable.kill)
        await lost.wait()
        await asyncio.to_thread(breakable.start)
        async with Fabric.connect(breakable.url) as fabric:
            await fabric.schemas.register("a", person())
        await eventually(lambda: away.transport.connected, what="the reconnection")
        with pytest.raises(InvalidParams, match="name"):
            await away.publish("a", {"name": 1})
        async with away.replay("a") as events:
            assert await data(events, 1) == [{"name": 1}]


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\xff",
        b"[]",
        b'"x"',
        b'{"schema": {}}',
        b'{"schema": {"type": "nope"}, "version": 2}',
        b'{"schema": {"$ref": "http://127.0.0.1:1/x"}, "version": 2}',
        b'{"schema": {}, "version": 1e400}',
    ],
    ids=lambda odd: odd.decode(errors="replace"),
)
async def test_what_is_no_schema_stands_before_none(fabric: Fabric, word: str, odd: bytes) -> None:
    topic, bare = f"{word}.a", f"{word}.b"
    schema = await fabric.schemas.register(topic, person())
    for each in (topic, bare):
        await fabric.jetstream.store(subjects.schema(each), Body(encoded=odd))
    assert (await fabric.publish(topic, {"name": "x"})).schema == schema.uri
    with pytest.raises(InvalidParams, match=f"{topic}/1"):
        await fabric.publish(topic, {"name": 1})
    assert (await fabric.publish(bare, {"name": 1})).schema is None
    assert await fabric.schemas.list(f"{word}.>") == [schema]
    second = await fabric.schemas.register(topic, person(age={"type": "integer"}), "none")
    assert (second.version, await fabric.schemas.latest(topic)) == (2, second)
