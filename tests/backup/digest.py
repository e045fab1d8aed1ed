"""All that a server keeps of a fabric, as one hash for each stream and the place of each consumer."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from fabric.backup.saving import streams_of
from fabric_sdk.contracts.streams import CATALOGUE
from fabric_sdk.jetstream import JetStream

Digest = dict[str, tuple[int, str, dict[str, Any]]]
_PLACE = ("num_pending", "num_ack_pending", "num_redelivered")


async def digest(jetstream: JetStream) -> Digest:
    """Of each stream: how many messages, the hash of all of them, and where its durable consumers are."""
    found: Digest = {}
    for about in await streams_of(jetstream):
        stream = next(each for each in CATALOGUE if each.name == about["config"]["name"])
        whole, count = hashlib.sha256(), 0
        async for each in jetstream.every(stream, ">"):
            facts = [each.sequence, each.subject, each.stored, sorted(each.headers.items())]
            whole.update(orjson.dumps(facts) + each.body.encoded())
            count += 1
        found[stream.name] = (count, whole.hexdigest(), await _consumers(jetstream, stream.name))
    return found


async def _consumers(jetstream: JetStream, stream: str) -> dict[str, Any]:
    consumers = (await jetstream.request(f"CONSUMER.LIST.{stream}"))["consumers"]
    return {
        each["name"]: {**{name: each[name] for name in _PLACE}, "floor": each["ack_floor"]["consumer_seq"]}
        for each in consumers
        if each["config"].get("durable_name")
    }
