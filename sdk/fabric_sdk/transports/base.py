"""The seam between patterns and the wire: what every transport promises.

Above: patterns and workers, which publish and subscribe. Below: one way for messages to travel (in this process,
over NATS). A transport refuses to know agents, tools, calls or MCP; it moves messages between subjects.

The promise, the same for all and held by one suite: a message is delivered **at most once** to each subscription
without a queue group and to one member of each queue group; messages from one publisher to one subscription keep
their order while the connection lasts; a message that asks for a reply and that nobody hears is answered at once
with `Status: 503`. Subjects are NATS subjects: tokens between dots, `*` for one token, `>` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from fabric_sdk.contracts.envelope import Message

Receiver = Callable[[Message], None]
"""Takes a message at once, without waiting: it decides what to do and leaves I/O to a task of its own."""

ConnectionEvent = Literal["connected", "disconnected"]
ConnectionListener = Callable[[ConnectionEvent], None]


class Subscription(Protocol):
    """Interest in a subject, until it is closed."""

    async def close(self) -> None:
        """Take no new messages. Returns when those already sent to this subscription have been received."""
        ...


class Transport(Protocol):
    """Publish and subscribe, at most once."""

    @property
    def connected(self) -> bool:
        """Whether messages travel now. A transport that lost its way finds it again by itself."""
        ...

    @property
    def max_message(self) -> int:
        """The largest encoded body that travels, in bytes; headers take their part of it."""
        ...

    async def publish(self, message: Message) -> None:
        """Send `message`.

        Raises:
            TransportUnavailable: it cannot be sent now, nor kept for the moment of reconnection.
            TransportClosed: this transport was closed.
            MessageTooLarge: its body and headers are larger than `max_message`.
            InvalidParams: its subject, or that of the reply, cannot travel.
        """
        ...

    async def subscribe(self, subject: str, receiver: Receiver, *, queue: str = "") -> Subscription:
        """Hear `subject`; with a `queue` group, share it with the group's other members.

        Interest outlives reconnections. It is known to the broker when this returns, if the transport is connected.

        Raises:
            TransportClosed: this transport was closed.
        """
        ...

    async def flush(self) -> None:
        """Wait until the other side has all that was published.

        Raises:
            TransportUnavailable: it cannot be reached.
        """
        ...

    def listen(self, listener: ConnectionListener) -> Callable[[], None]:
        """Tell `listener` of each loss and return of the connection, until what this returns is called."""
        ...

    async def close(self) -> None:
        """Send what is pending and let go. A closed transport is not opened again."""
        ...
