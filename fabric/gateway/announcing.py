"""Who wants to hear what changes, and what they are told: other lists, other contents of resources.

Above: `listening` (`subscriptions/listen`) and `legacy` (the stream of a session). Below: the catalogue and the bus.
Each gateway hears every change itself, so a subscriber may be at any of them. What is told may be told once too often,
and never too seldom: whoever comes back after a break is told that all may have changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

from fabric.gateway.view import View
from fabric.gateway.views import Views
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Message

log = logging.getLogger(__name__)

LISTS: Final = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
}
"""What a client may want to hear of, and how it is told."""
UPDATED: Final = "notifications/resources/updated"

Tell = Callable[[str, dict[str, Any]], None]
"""Takes a notification: its method and params."""


@dataclass(slots=True, eq=False)
class Subscriber:
    """One client that listens."""

    view: Callable[[], View]
    """What it sees now."""
    tell: Tell
    uris: Callable[[], Collection[str]]
    """Resources, by the names it uses."""
    lists: frozenset[str] = frozenset(LISTS)
    seen: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Digests of the lists as it knows them."""

    def tell_all(self) -> None:
        """Tell it that everything may have changed."""
        for which in sorted(self.lists):
            self.tell(LISTS[which], {})
        for uri in sorted(self.uris()):
            self.tell(UPDATED, {"uri": uri})


class Announcements:
    """Tells subscribers of one gateway."""

    def __init__(self, fabric: Fabric, views: Views) -> None:
        self._fabric = fabric
        self._subscribers: set[Subscriber] = set()
        views.listen(self._lists_changed)

    async def run(self) -> None:
        """Begin to hear what agents say."""
        await self._fabric.transport.subscribe(subjects.changed("*"), self._hear)

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, subscriber: Subscriber) -> None:
        """Tell `subscriber` from now on."""
        subscriber.seen = subscriber.view().digests()
        self._subscribers.add(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Tell `subscriber` no more."""
        self._subscribers.discard(subscriber)

    def _lists_changed(self) -> None:
        for subscriber in list(self._subscribers):
            now = subscriber.view().digests()
            for which in sorted(subscriber.lists):
                if now[which] != subscriber.seen.get(which):
                    subscriber.tell(LISTS[which], {})
            subscriber.seen = now

    def _hear(self, message: Message) -> None:
        try:
            said = message.body.members()
        except ValueError:
            return
        agent, uri, which = message.subject.rpartition(".")[2], said.get("resource"), said.get("list")
        if isinstance(which, str) and which in LISTS:
            for subscriber in list(self._subscribers):
                if which in subscriber.lists and subscriber.view().has(agent):
                    subscriber.tell(LISTS[which], {})
        if not isinstance(uri, str):
            return
        for subscriber in list(self._subscribers):
            if wanted := subscriber.uris():
                for shown in subscriber.view().shown_uris(agent, uri):
                    if shown in wanted:
                        subscriber.tell(UPDATED, {"uri": shown})
