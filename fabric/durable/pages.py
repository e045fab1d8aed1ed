"""The beginning of what may be long, and whether there is more: an answer has to fit into a message.

Above: the agent `durable`, the command line. Below: nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The first of what there is."""

    found: list[T]
    more: bool
    """Whether there are more than these."""


async def page(everything: AsyncIterable[T], limit: int) -> Page[T]:
    """The first `limit` of `everything`; the rest is not read."""
    found: list[T] = []
    async for each in everything:
        if len(found) == limit:
            return Page(found, more=True)
        found.append(each)
    return Page(found, more=False)
