"""A fabric becomes an archive, while it runs or not.

Above: the command. Below: snapshots. Each stream is whole as it was at one moment; the moments follow each other along
the way of a task (later, queue, record, and what is too large for a message), so nothing is missed that moves
meanwhile: at worst it is seen twice, which `settling` sorts out by the records.
"""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import IO, Any, Final

import orjson

from fabric.backup.archive import Draft
from fabric.backup.manifest import Manifest, Part, StreamPart
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.streams import LATER, OBJECTS, OURS, RECORDS, TASKS
from fabric_sdk.jetstream import JetStream, Snapshot

_FIRST: Final = (LATER.name, TASKS.name, RECORDS.name)
_LAST: Final = (OBJECTS.name,)
_IN_MEMORY_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """How far it is: a stream, and so many bytes of it."""

    stream: str
    size: int
    messages: int
    done: bool = False


async def save(
    jetstream: JetStream, draft: Draft, *, nats: str, configuration: Mapping[str, bytes]
) -> AsyncGenerator[Step]:
    """Write everything; goes on as long as it is asked for the next step.

    Raises:
        FabricError: the server does not answer, or refuses.
    """
    there = {each["config"]["name"]: each["config"] for each in await streams_of(jetstream)}
    kept = in_order([name for name, config in there.items() if config["storage"] == "file"])
    before = await jetstream.end_of(RECORDS)
    parts: list[StreamPart] = []
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as heard:

        def hear(message: Message) -> None:
            heard.write(_line(message))

        listening = await jetstream.transport.subscribe(subjects.TASKS, hear)
        try:
            for name in kept:
                async for step, part in _saved(jetstream, draft, name):
                    yield step
                    if part is not None:
                        parts.append(part)
                if name == RECORDS.name:
                    await listening.close()
        finally:
            await listening.close()
        started = draft.add_started(_lines(heard))
    files = {name: draft.add_configuration(name, content) for name, content in configuration.items()}
    draft.finish(
        Manifest(
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            fabric=version("agent-fabric"),
            nats=nats,
            records_before=before,
            streams=tuple(parts),
            started=started,
            configuration=files,
            left_out=tuple(sorted(there.keys() - set(kept))),
        )
    )


async def _saved(jetstream: JetStream, draft: Draft, name: str) -> AsyncGenerator[tuple[Step, StreamPart | None]]:
    snapshot, written = Snapshot(jetstream, name), Part()
    async for written in draft.add_stream(name, snapshot.pieces()):
        yield Step(name, written.size, int(snapshot.state["messages"])), None
    part = StreamPart(name=name, config=snapshot.config, state=snapshot.state, size=written.size, sha256=written.sha256)
    yield Step(name, part.size, part.messages, done=True), part


async def streams_of(jetstream: JetStream) -> list[dict[str, Any]]:
    """What the server says of each stream of the fabric's.

    Raises:
        FabricError: the server does not answer.
    """
    found: list[dict[str, Any]] = []
    seen = 0
    while True:
        page = await jetstream.request("STREAM.LIST", {"offset": seen})
        streams: list[dict[str, Any]] = page["streams"] or []
        seen += len(streams)
        found += [each for each in streams if each["config"]["name"].startswith(OURS)]
        if not streams or seen >= page["total"]:
            return found


def in_order(names: Sequence[str]) -> list[str]:
    """Along the way of a task; what no task is in, in between."""
    order = (*_FIRST, *sorted(set(names) - {*_FIRST, *_LAST}), *_LAST)
    return [name for name in order if name in names]


def _line(message: Message) -> bytes:
    body = b64encode(message.body.encoded()).decode()
    return orjson.dumps({"subject": message.subject, "headers": dict(message.headers or {}), "body": body}) + b"\n"


def _lines(heard: IO[bytes]) -> IO[bytes]:
    heard.seek(0)
    return heard
