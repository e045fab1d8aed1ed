"""Conversations, read through Redis: long ones are put together once, and not again until they change.

Above: the registry's tool. Below: JetStream, which keeps them, and `Store`. What Redis has is used only while it is of
the version that JetStream has; without Redis, or with an empty one, a conversation is read as it is kept.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import orjson
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from fabric.registry.store import Store, StoreUnavailable
from fabric_sdk import Fabric

log = logging.getLogger(__name__)


class Read(TypedDict):
    """A conversation, as it was read."""

    snapshot: Any
    entries: list[Any]
    version: int


_READ: Final = TypeAdapter(Read)


async def read(fabric: Fabric, store: Store, conversation_id: str) -> Read:
    """What is remembered of a conversation.

    Raises:
        ConfigurationError: nothing can be called so.
        TransportUnavailable: JetStream does not answer.
    """
    conversation = fabric.conversation(conversation_id)
    version = await conversation.version()
    try:
        if (kept := await store.conversation(conversation.id)) is not None:
            known = _READ.validate_json(kept)
            if known["version"] == version:
                return known
    except ValueError:
        log.debug("what Redis has of conversation %s is none", conversation.id)
    except StoreUnavailable as away:
        log.debug("a conversation is read without a cache: %s", away)
    remembered = await conversation.read()
    found = Read(snapshot=remembered.snapshot, entries=remembered.entries, version=remembered.version)
    try:
        await store.keep_conversation(conversation.id, orjson.dumps(found))
    except StoreUnavailable as away:
        log.debug("a conversation could not be cached: %s", away)
    return found
