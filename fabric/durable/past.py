"""A part of what happened: so many events that an answer carries them, and whether there are more.

Above: the agent `durable`. Below: the SDK's events. A page ends early where its events are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from fabric.durable.pages import Page
from fabric_sdk import Event, Fabric
from fabric_sdk.client import Wanted
from fabric_sdk.contracts.envelope import Body

_MOST_BYTES: Final = 512 * 1024
"""Of a page: an answer has to fit into a message, which may be as small as 1 MiB."""


def shown(event: Event) -> dict[str, Any]:
    """An event as CloudEvents has it, with its data and its place."""
    return {**event.about(), "data": event.data}


async def replayed(
    fabric: Fabric, topics: Sequence[str], *, start: datetime | int | None, only: str | None, limit: int
) -> Page[dict[str, Any]]:
    """At most `limit` events of these topics that happened, oldest first, and fewer where they are large.

    Args:
        fabric: where they happened.
        topics: patterns.
        start: a time, or an event's `sequence`; all that is kept by default.
        only: a CEL expression that must be true of them.
        limit: how many.

    Raises:
        InvalidParams: a topic or the expression is none.
    """
    how = Wanted()
    if start is not None:
        how["start"] = start
    if only is not None:
        how["filter"] = only
    found: list[dict[str, Any]] = []
    size = 0
    async with fabric.replay(*topics, **how) as events:
        async for event in events:
            each = shown(event)
            size += len(Body(each).encoded())
            if len(found) == limit or (found and size > _MOST_BYTES):
                return Page(found, more=True)
            found.append(each)
    return Page(found, more=False)
