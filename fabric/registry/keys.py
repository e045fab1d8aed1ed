"""The one catalogue of Redis keys. What is there is rebuilt from the bus within one heartbeat, what was used of limits
from the gateways, as they use more.

Above: `store`. Below: nothing.
"""

from __future__ import annotations

from typing import Final

AGENTS: Final = "fab:agents"
"""Sorted set: agent name → Unix milliseconds of its last heartbeat."""

DIGESTS: Final = "fab:digests"
"""Hash: agent name → digest of the description that speaks for it."""

REVISION: Final = "fab:revision"
"""Counter: grows whenever an agent, an instance or a digest comes or goes. Where it is missing, so is the catalogue."""

OF_AGENTS: Final = ("fab:instances:*", "fab:lease:*", "fab:description:*")
"""The rest of the catalogue, as patterns."""

GONE: Final = b"gone"
"""In place of a lease once the instance has said goodbye."""


def instances(agent: str) -> str:
    """Sorted set: instance → Unix milliseconds at which its lease ends."""
    return f"fab:instances:{agent}"


def lease(agent: str, instance: str) -> str:
    """String with expiry: the instance's last heartbeat, as JSON, or `GONE`."""
    return f"fab:lease:{agent}:{instance}"


def conversation(conversation_id: str) -> str:
    """String with expiry: a conversation as it was read last, as JSON with its version."""
    return f"fab:conversation:{conversation_id}"


def description(agent: str, digest: str) -> str:
    """String with expiry: what `agent` offers under this digest, as JSON."""
    return f"fab:description:{agent}:{digest}"


def ahead(bucket: str) -> str:
    """String with expiry: Unix microseconds at which the rate will have given back what was used of a bucket."""
    return f"fab:ahead:{bucket}"


def used(bucket: str, day: int) -> str:
    """Counter with expiry: what was used of a bucket in one day, counted from 1970."""
    return f"fab:used:{day}:{bucket}"


def told(spender: str) -> str:
    """String with expiry: the number of the last report that a gateway's use was counted from."""
    return f"fab:told:{spender}"
