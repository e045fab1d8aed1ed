"""What the broker keeps: streams and their room, queues and what waits in them, dead letters.

Above: the platform's agent `durable`, whose process tells it. Below: the SDK's JetStream. Asked when somebody scrapes:
several such processes tell the same, so queries take the largest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from fabric.observability.metrics import MOST, Family, Labels, Point
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.streams import CATALOGUE, EVENTS, LATER, RECORDS, TASKS, Stream
from fabric_sdk.contracts.task import PRIORITIES
from fabric_sdk.jetstream import Missing

EVENTS_QUEUE: Final = "events"
"""What waits for a group of subscribers; the group's name stands where agents' names do."""
_QUEUE: Final = ("agent", "queue")
_NO_SUBJECT: Final = 1_000_000_000
"""Where a list of subjects is begun to be told how long it is, and none of it."""

_Info = Mapping[str, Any]


async def kept(fabric: Fabric) -> list[Family]:
    """All of it, now; nothing while the broker is away, at once and not after a while."""
    if not fabric.transport.connected:
        return []
    streams, queues = await asyncio.gather(_streams(fabric), _queues(fabric))
    agents = sorted({owner for owner, queue in queues if queue != EVENTS_QUEUE})[:MOST]
    dead = await asyncio.gather(*(_dead(fabric, agent) for agent in agents))
    letters = tuple(Point((agent,), count) for agent, count in zip(agents, dead, strict=True))
    return [
        _of_streams("fabric_stream_messages", "Messages that a stream keeps.", streams, "messages"),
        _of_streams("fabric_stream_size_bytes", "Bytes that a stream keeps.", streams, "bytes", unit="bytes"),
        _of_rooms(
            "fabric_stream_limit_messages",
            "Messages a stream takes, if it drops none.",
            streams,
            "max_msgs",
        ),
        _of_rooms(
            "fabric_stream_limit_bytes",
            "Bytes a stream takes, if it drops none.",
            streams,
            "max_bytes",
            "bytes",
        ),
        _of_queues("fabric_queue_waiting", "Messages that nobody has been given.", queues, "num_pending"),
        _of_queues("fabric_queue_in_hand", "Messages given to somebody and not settled.", queues, "num_ack_pending"),
        _of_queues(
            "fabric_queue_redelivered", "Of those, given for at least the second time.", queues, "num_redelivered"
        ),
        Family("fabric_dead_letters", "gauge", "Tasks that failed for good.", ("agent",), letters),
    ]


async def _streams(fabric: Fabric) -> dict[str, _Info]:
    found = await asyncio.gather(*(_stream(fabric, stream) for stream in CATALOGUE))
    return {stream.name: about for stream, about in zip(CATALOGUE, found, strict=True) if about is not None}


async def _stream(fabric: Fabric, stream: Stream) -> _Info | None:
    try:
        return await fabric.jetstream.request(f"STREAM.INFO.{stream.name}")
    except Missing:
        return None


async def _queues(fabric: Fabric) -> dict[Labels, _Info]:
    """Every durable consumer: the agent's, or the group's of subscribers, and which of its queues."""
    found: dict[Labels, _Info] = {}
    for stream in (TASKS, LATER, EVENTS):
        async for about in _consumers(fabric, stream):
            name = str(about["config"].get("durable_name", ""))
            owner, _, queue = name.rpartition("-")
            if queue == "due" or queue in PRIORITIES:
                found[owner, queue] = about
            elif name.startswith("group-"):
                found[name.removeprefix("group-"), EVENTS_QUEUE] = about
    return found


async def _consumers(fabric: Fabric, stream: Stream) -> AsyncGenerator[_Info]:
    offset = 0
    while offset < 4 * MOST:
        try:
            page = await fabric.jetstream.request(f"CONSUMER.LIST.{stream.name}", {"offset": offset})
        except Missing:
            return
        consumers: Sequence[_Info] = page.get("consumers") or ()
        for about in consumers:
            yield about
        offset += len(consumers)
        if not consumers or offset >= page.get("total", 0):
            return


async def _dead(fabric: Fabric, agent: str) -> int:
    asked = {"subjects_filter": subjects.dead(agent, "*"), "offset": _NO_SUBJECT}
    try:
        return int((await fabric.jetstream.request(f"STREAM.INFO.{RECORDS.name}", asked)).get("total", 0))
    except Missing:
        return 0


def _of_streams(name: str, help: str, streams: Mapping[str, _Info], what: str, unit: str = "") -> Family:
    points = tuple(Point((stream,), about["state"][what]) for stream, about in streams.items())
    return Family(name, "gauge", help, ("stream",), points, unit)


def _of_rooms(name: str, help: str, streams: Mapping[str, _Info], what: str, unit: str = "") -> Family:
    # Those that drop what is oldest are meant to be full.
    kept = {stream: about["config"] for stream, about in streams.items() if about["config"]["discard"] == "new"}
    rooms = ((stream, config.get(what, 0)) for stream, config in kept.items())
    points = tuple(Point((stream,), room) for stream, room in rooms if room > 0)
    return Family(name, "gauge", help, ("stream",), points, unit)


def _of_queues(name: str, help: str, queues: Mapping[Labels, _Info], what: str) -> Family:
    points = tuple(Point(labels, about.get(what, 0)) for labels, about in queues.items())
    return Family(name, "gauge", help, _QUEUE, points)
