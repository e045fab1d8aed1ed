"""Messages by the shortest way: calls between processes of one host over their sockets, all else over the broker.

Above: patterns and workers, which notice nothing. Below: the broker's transport, `nearby`, `callers`. Guarantee: that
of the seam, but that what goes from one process of a host to another is not heard by others who listen on the broker;
and what was sent over a link that is lost ends with `WorkerLost` at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.errors import MessageTooLarge
from fabric_sdk.contracts.subjects import CALLS, DIRECTS, REPLIES, head
from fabric_sdk.transports.base import ConnectionListener, Receiver, Subscription, Transport
from fabric_sdk.transports.callers import Callers
from fabric_sdk.transports.frames import encode_frame
from fabric_sdk.transports.nearby import Find, Nearby

log = logging.getLogger(__name__)

_CALLED: Final = (CALLS, DIRECTS)
_NEAR: Final = (*_CALLED, REPLIES)


class _Interest:
    """Interest in what may come over a link as well."""

    def __init__(self, transport: NearestTransport, name: str, receiver: Receiver, over_broker: Subscription) -> None:
        self._transport, self._name, self._receiver, self._over_broker = transport, name, receiver, over_broker

    async def close(self) -> None:
        await asyncio.gather(self._over_broker.close(), self._transport.stop_listening(self._name))
        self._transport.forget(self._name, self._receiver)


class NearestTransport:
    """The broker's transport, with short ways beside it."""

    def __init__(self, broker: Transport, folder: Path, find: Find) -> None:
        """
        Args:
            broker: reaches everybody; closed with this transport.
            folder: where the sockets of this host are.
            find: finds instances.
        """
        self._broker = broker
        self._receivers: dict[str, list[Receiver]] = {}
        """Of what is heard here, by the first tokens of its subject; the last takes it."""
        self._nearby = Nearby(folder, find, self._hand_over)
        self._callers = Callers(folder, self._hand_over)

    def __repr__(self) -> str:
        return f"<NearestTransport {len(self._nearby)} links, {self._broker!r}>"

    @property
    def connected(self) -> bool:
        return self._broker.connected

    @property
    def max_message(self) -> int:
        return self._broker.max_message

    async def publish(self, message: Message) -> None:
        subject = message.subject
        link = None
        if subject.startswith(REPLIES):
            link = self._callers.way(subject)
        elif subject.startswith(_CALLED):
            link = self._nearby.pick(head(subject))
        if link is None:
            await self._broker.publish(message)
            return
        frame, size = encode_frame(message)
        if size > self._broker.max_message:
            raise MessageTooLarge(
                f"the message has {size} bytes, the fabric takes {self._broker.max_message}",
                fix="send less, or raise max_payload in the NATS server's configuration",
            )
        link.send(frame)
        if message.reply:
            link.owe(message.reply)  # who calls has a deadline, and waits for the answer alone
            return
        self._callers.said(message)
        if not link.writable.is_set():
            await link.writable.wait()

    async def subscribe(self, subject: str, receiver: Receiver, *, queue: str = "") -> Subscription:
        interest = await self._broker.subscribe(subject, receiver, queue=queue)
        name = head(subject)
        if not name.startswith(_NEAR) or subject != f"{name}.>":
            return interest
        self._receivers.setdefault(name, []).append(receiver)
        if name.startswith(DIRECTS):
            await self._callers.listen(name.removeprefix(DIRECTS))
        return _Interest(self, name, receiver, interest)

    async def meet(self, agent: str) -> int:
        """Look for the instances of `agent` on this host now, rather than after the first call.

        Returns:
            How many of them are called over a link from now on.
        """
        return await self._nearby.meet(agent)

    async def flush(self) -> None:
        await self._broker.flush()

    def listen(self, listener: ConnectionListener) -> Callable[[], None]:
        return self._broker.listen(listener)

    async def close(self) -> None:
        await asyncio.gather(self._nearby.close(), self._callers.close())
        await self._broker.close()

    async def stop_listening(self, name: str) -> None:
        """Take no more calls to the instance whose subjects begin so, if it is one."""
        if name.startswith(DIRECTS):
            await self._callers.stop(name.removeprefix(DIRECTS))

    def forget(self, name: str, receiver: Receiver) -> None:
        """Hand over nothing more to `receiver` whose subject begins so."""
        receivers = self._receivers.get(name, [])
        if receiver in receivers:
            receivers.remove(receiver)
        if not receivers:
            self._receivers.pop(name, None)

    def _hand_over(self, message: Message) -> bool:
        receivers = self._receivers.get(head(message.subject))
        if receivers is None:
            return False
        try:
            receivers[-1](message)
        except Exception:  # the link serves everybody; one receiver's fault must not end it
            log.exception("receiving %s failed", message.subject)
        return True
