"""The callers on this host that come over links: each instance listens on a socket, and answers go back the same way.

Above: `nearest`. Below: `sockets`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.subjects import Header, alive, due_of, head
from fabric_sdk.transports.frames import encode_frame
from fabric_sdk.transports.nearby import LATE_SECONDS, HandOver
from fabric_sdk.transports.sockets import Link, Listener, close_all

log = logging.getLogger(__name__)

_FEW: Final = 1024
"""Calls that are not worth looking through."""


class Callers:
    """Links from callers: what is answered goes back the way it came."""

    def __init__(self, folder: Path, hand_over: HandOver) -> None:
        """
        Args:
            folder: where the sockets of this host are.
            hand_over: takes the calls.
        """
        self._folder, self._hand_over = folder, hand_over
        self._listeners: dict[str, Listener] = {}
        self._links: set[Link] = set()
        self._calls: dict[str, Link] = {}
        """By the subject of the answer, until it is given."""
        self._many = _FEW
        """Of these; beyond it, those that are overdue are forgotten."""
        self._alive: dict[str, Link] = {}
        """By the subject on which an instance tells a client what it still works on."""

    def __len__(self) -> int:
        return len(self._calls)

    def way(self, subject: str) -> Link | None:
        """The link for what is said to a caller, if its call came over one."""
        return self._calls.get(subject) or self._alive.get(subject)

    def said(self, message: Message) -> None:
        """Forget a call that is answered."""
        if message.headers is None or Header.FRAME not in message.headers:
            self._calls.pop(message.subject, None)

    async def listen(self, instance: str) -> None:
        """Take calls to `instance` from now on; where that cannot be, they go over the broker."""
        listener = Listener(self._folder, instance, lambda: self._link(instance))
        try:
            await listener.open()
        except OSError as unfit:
            log.warning("instance %s is reached over the broker alone: its socket cannot be made: %s", instance, unfit)
        else:
            self._listeners[instance] = listener

    async def stop(self, instance: str) -> None:
        """Take no more calls to `instance`, once all that were sent until now have come."""
        if (listener := self._listeners.pop(instance, None)) is not None:
            await listener.close()

    async def close(self) -> None:
        """Let go of all links."""
        await asyncio.gather(*(self.stop(instance) for instance in list(self._listeners)))
        await close_all(self._links)

    def _link(self, instance: str) -> Link:
        link = Link(self, instance)
        self._links.add(link)
        return link

    # what links tell

    def take(self, link: Link, message: Message) -> None:
        if message.reply:
            self._calls[message.reply] = link
            if len(self._calls) > self._many:
                self._forget_overdue()
            if (client := head(message.reply)) not in link.clients:
                link.clients.add(client)
                self._alive[alive(message.reply, link.here)] = link
        if not self._hand_over(message) and message.reply:
            self._calls.pop(message.reply, None)
            link.send(encode_frame(Message(message.reply, headers={Header.STATUS: "503"}))[0])

    def leave(self, link: Link) -> None:
        """It calls nobody here any more; its answers still go back."""

    def lose(self, link: Link) -> None:
        self._links.discard(link)
        for listener in self._listeners.values():
            listener.forget(link)
        for ways in (self._calls, self._alive):
            for subject in [subject for subject, way in ways.items() if way is link]:
                del ways[subject]

    def _forget_overdue(self) -> None:
        """A few are never answered: of two that bring one answer to a question, the last is told what comes of it."""
        now = time.time()
        self._calls = {
            reply: link for reply, link in self._calls.items() if (due_of(reply) or now) + LATE_SECONDS >= now
        }
        self._many = max(_FEW, 2 * len(self._calls))
