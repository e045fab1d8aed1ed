"""Messages over NATS core: at most once, between any processes. The only file that imports nats.

Above: the seam in `base`. Below: nats-py, whose client closes for good on most server errors; so it is supervised
here: a closed client is replaced, and every interest renewed on the new one, under the same subjects.

Messages are received inside nats-py's read loop through the `future` of `subscribe`, which it resolves at once
for each message: no queue, no task and no lost "slow consumer" in between. Receivers therefore never wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import ConfigurationError, MessageTooLarge, TransportUnavailable
from fabric_sdk.transports.base import ConnectionEvent, ConnectionListener, Receiver

log = logging.getLogger(__name__)

_PING_SECONDS: Final = 5
_PINGS_UNANSWERED: Final = 2
_CONNECT_SECONDS: Final = 2
_PROBE_SECONDS: Final = 5.0
_PROBES_UNANSWERED: Final = 3
_BUFFER_BYTES: Final = 8 * 1024 * 1024
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 2.0


class _Inlet:
    """Looks to nats-py like a future that is never done, and hands each message straight to a receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def cancelled(self) -> bool:
        return False

    def set_result(self, message: Msg) -> None:
        try:
            self._receiver(
                Message(
                    message.subject, Body(encoded=message.data), reply=message.reply, headers=message.headers or None
                )
            )
        except Exception:  # the read loop serves everybody; one receiver's fault must not end it
            log.exception("receiving %s failed", message.subject)


class _Interest:
    """One subject heard, on whichever client is alive."""

    def __init__(self, transport: NatsTransport, subject: str, receiver: Receiver, queue: str) -> None:
        self._transport = transport
        self._subject = subject
        self._queue = queue
        self._inlet = _Inlet(receiver)
        self._on_server: NatsSubscription | None = None

    async def renew(self, client: Client) -> None:
        untyped = cast("Any", client)  # nats-py types its futures only in part, and wants a whole one
        self._on_server = await untyped.subscribe(self._subject, queue=self._queue, future=self._inlet)

    async def close(self) -> None:
        """Unsubscribe and hear out what the server had sent by then."""
        self._transport.forget(self)
        if self._on_server is None:
            return
        try:
            await self._on_server.drain()
        except (nats.errors.Error, OSError, TimeoutError):
            log.debug("%s was closed while the connection was away", self._subject)


class NatsTransport:
    """A supervised connection to a NATS server or cluster. Made by `connect`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._client = Client()
        self._interests: list[_Interest] = []
        self._listeners: list[ConnectionListener] = []
        self._closing = False
        self._lost = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @staticmethod
    async def connect(
        url: str, *, name: str = "agent-fabric", credentials: str | None = None, tls: ssl.SSLContext | None = None
    ) -> NatsTransport:
        """Connect to `url`: one or more `nats://[user:password@]host:port`, separated by commas.

        Args:
            url: where the servers are.
            name: shown in the server's list of connections.
            credentials: path of a NATS `.creds` file.
            tls: for `tls://` URLs with a private authority.

        Raises:
            ConfigurationError: the URL is malformed, or the server refuses these credentials.
            TransportUnavailable: no NATS server answers there.
        """
        servers = [part.strip() for part in url.split(",") if part.strip()]
        for server in servers:
            if urlsplit(server).scheme not in ("nats", "tls", "ws", "wss"):
                raise ConfigurationError(f"{_shown(server)!r} is no NATS URL", fix="write nats://host:port")
        options: dict[str, Any] = {"servers": servers, "name": name}
        options |= {"user_credentials": credentials} if credentials else {}
        options |= {"tls": tls} if tls else {}
        transport = NatsTransport(options)
        await transport._open(patient=False)
        transport._supervisor = asyncio.create_task(transport._supervise())
        return transport

    def __repr__(self) -> str:
        state = "closed" if self._closing else "connected" if self.connected else "away"
        return f"<NatsTransport {state}, {len(self._interests)} interests>"

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def max_message(self) -> int:
        return self._client.max_payload

    async def publish(self, message: Message) -> None:
        headers = message.headers
        try:
            await self._client.publish(
                message.subject,
                message.body.encoded(),
                reply=message.reply,
                headers=cast("dict[str, str] | None", headers),
            )
        except nats.errors.MaxPayloadError:
            raise MessageTooLarge(
                f"the message has {len(message.body.encoded())} bytes, NATS takes {self.max_message}",
                fix="send less, or raise max_payload in the server's configuration",
            ) from None
        except (nats.errors.Error, OSError) as away:
            raise TransportUnavailable(f"NATS is away: {away or type(away).__name__}") from away

    async def subscribe(self, subject: str, receiver: Receiver, *, queue: str = "") -> _Interest:
        interest = _Interest(self, subject, receiver, queue)
        self._interests.append(interest)
        if not self._client.is_closed:
            try:
                await interest.renew(self._client)
            except nats.errors.ConnectionClosedError:
                log.debug("%s will be heard on the next connection", subject)
        return interest

    def forget(self, interest: _Interest) -> None:
        """Do not renew `interest` on the next client."""
        if interest in self._interests:
            self._interests.remove(interest)

    async def flush(self) -> None:
        try:
            await self._client.flush(timeout=int(_PROBE_SECONDS))
        except (nats.errors.Error, OSError, TimeoutError, AttributeError) as away:
            raise TransportUnavailable(f"NATS is away: {away or type(away).__name__}") from away

    def listen(self, listener: ConnectionListener) -> Callable[[], None]:
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    async def close(self) -> None:
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
        try:
            await asyncio.wait_for(self._client.flush(timeout=2), 3)
        except (nats.errors.Error, OSError, TimeoutError, AttributeError):
            log.debug("closed without a last flush: the server is away")
        await self._client.close()

    # supervision

    async def _open(self, *, patient: bool) -> None:
        """Connect a new client and renew every interest on it."""
        client = Client()
        failures: list[Exception] = []

        async def on_error(error: Exception) -> None:
            failures.append(error)
            del failures[:-8]
            log.debug("nats: %s", error)

        try:
            async with asyncio.timeout(None if patient else _CONNECT_SECONDS * 3):
                await client.connect(
                    **self._options,
                    error_cb=on_error,
                    closed_cb=self._on_closed,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_connected,
                    connect_timeout=_CONNECT_SECONDS,
                    max_reconnect_attempts=-1 if patient else 1,
                    reconnect_time_wait=0,
                    reconnect_to_server_handler=_choose if patient else None,
                    ping_interval=_PING_SECONDS,
                    max_outstanding_pings=_PINGS_UNANSWERED,
                    pending_size=_BUFFER_BYTES,
                    # every subject comes from the catalogue in `contracts.subjects`, which checks what goes into it
                    skip_subject_validation=True,
                )
        except (nats.errors.Error, OSError, TimeoutError, ssl.SSLError, ValueError) as failure:
            await client.close()
            raise self._refusal(failure, failures) from failure
        client.options["max_reconnect_attempts"] = -1
        client._reconnect_to_server_handler = _choose  # pyright: ignore[reportPrivateUsage]
        self._client = client
        for interest in list(self._interests):
            await interest.renew(client)
        await client.flush(timeout=_CONNECT_SECONDS)
        self._tell("connected")

    def _refusal(self, failure: Exception, failures: list[Exception]) -> Exception:
        where = ", ".join(_shown(server) for server in self._options["servers"])
        said = " ".join(str(each).lower() for each in (*failures, failure))
        if "authorization" in said or "authentication" in said:
            return ConfigurationError(
                f"NATS at {where} refuses these credentials", fix="check user and password in the URL"
            )
        reason = next((str(each) for each in reversed(failures) if str(each)), str(failure) or "no answer")
        return TransportUnavailable(
            f"no NATS server answers at {where}: {reason}", fix="start one with `fabric up`, or check FABRIC_NATS_URL"
        )

    async def _supervise(self) -> None:
        """Probe the connection; replace a client that closed itself or no longer answers."""
        unanswered = 0
        while not self._closing:
            try:
                await asyncio.wait_for(self._lost.wait(), _PROBE_SECONDS)
            except TimeoutError:
                unanswered = 0 if await self._answers() else unanswered + 1
                if unanswered < _PROBES_UNANSWERED:
                    continue
                log.warning("the NATS client does not answer; it is replaced")
            unanswered = 0
            self._lost.clear()
            await self._replace()

    async def _answers(self) -> bool:
        if not self._client.is_connected:
            return True  # nats-py is reconnecting by itself
        try:
            await self.flush()
        except TransportUnavailable:
            return False
        return True

    async def _replace(self) -> None:
        old, wait = self._client, _FIRST_WAIT
        if not old.is_closed:
            await old.close()
        self._lost.clear()  # closing the old one says so too
        while not self._closing:
            try:
                await self._open(patient=False)
                return
            except (TransportUnavailable, ConfigurationError, nats.errors.Error, TimeoutError) as failure:
                log.warning("%s", failure)
            await asyncio.sleep(random.uniform(wait / 2, wait))
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _on_closed(self) -> None:
        if not self._closing:
            self._lost.set()

    async def _on_disconnected(self) -> None:
        self._tell("disconnected")

    async def _on_connected(self) -> None:
        self._tell("connected")

    def _tell(self, event: ConnectionEvent) -> None:
        if not self._closing:
            for listener in list(self._listeners):
                listener(event)


def _choose(servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
    """The next server to try, and how many seconds to wait before: longer and more random with each failure."""
    server = min(servers, key=lambda each: (each.reconnects, random.random()))
    wait = min(_FIRST_WAIT * 2 ** min(server.reconnects, 5), _LONGEST_WAIT)
    return server, random.uniform(wait / 2, wait)


def _shown(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
