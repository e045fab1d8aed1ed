"""The callers on this host that come over links: each instance listens on a socket, and answers go back the same way.

Above: `nearest`. Below: `sockets`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.subjects import Header, head
from fabric_sdk.transports.frames import encode_frame
from fabric_sdk.transports.nearby import HandOver
from fabric_sdk.transports.sockets import Link, Listener, close_all

log = logging.getLogger(__name__)


class Callers:
    """Links from callers, by what the subjects of their answers begin with."""

    def __init__(self, folder: Path, hand_over: HandOver, most: Callable[[], int]) -> None:
        """
        Args:
            folder: where the sockets of this host are.
            hand_over: takes the calls.
            most: how many bytes a message may have now.
        """
        self._folder, self._hand_over, self._most = folder, hand_over, most
        self._listeners: dict[str, Listener] = {}
        self._links: set[Link] = set()
        self.back: dict[str, Link] = {}

    async def listen(self, instance: str) -> None:
        """Take calls to `instance` from now on; where that cannot be, they go over the broker."""
        listener = Listener(self._folder, instance, self._link)
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

    def _link(self) -> Link:
        link = Link(self._most(), self)
        self._links.add(link)
        return link

    # what links tell

    def take(self, link: Link, message: Message) -> None:
        if message.reply:
            back = head(message.reply)
            if self.back.get(back) is not link:
                self.back[back] = link
        if not self._hand_over(message) and message.reply:
            link.send(encode_frame(Message(message.reply, headers={Header.STATUS: "503"}))[0])

    def leave(self, link: Link) -> None:
        """It calls nobody here any more; its answers still go back."""

    def lose(self, link: Link) -> None:
        self._links.discard(link)
        for listener in self._listeners.values():
            listener.forget(link)
        for name in [name for name, way in self.back.items() if way is link]:
            del self.back[name]
