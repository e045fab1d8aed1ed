"""Messages over NATS core: at most once, between any processes. The only file that imports nats.

Above: the seam in `base`. Below: nats-py, whose client closes for good on most server errors; so it is supervised
here: a closed client is replaced, and every interest renewed on the new one, under the same subjects.

Messages are received inside nats-py's read loop, past its queues: no task and no lost "slow consumer" in between.
Receivers therefore never wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import nats
import nats.errors
from nats.aio.client import Client, Server
from nats.aio.subscription import Subscription as NatsSubscription

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import (
    ConfigurationError,
    InvalidParams,
    MessageTooLarge,
    TransportClosed,
    TransportUnavailable,
)
from fabric_sdk.transports.base import ConnectionEvent, ConnectionListener, Receiver
from fabric_sdk.transports.headers import PLAIN, encode_headers, read_headers
from fabric_sdk.transports.nats_url import bare, checked_credentials, servers_in, shown, user_in

log = logging.getLogger(__name__)

_PING_SECONDS: Final = 5
_PINGS_UNANSWERED: Final = 2
_CONNECT_SECONDS: Final = 2
_PROBE_SECONDS: Final = 5.0
_PROBES_UNANSWERED: Final = 3
_FLUSH_SECONDS: Final = 5
_CLOSE_SECONDS: Final = 3
_BUFFER_BYTES: Final = 8 * 1024 * 1024
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 2.0
_LONGEST_LINE: Final = 4096
"""Bytes of a command without its headers and body: what the server takes, unless it is told otherwise."""
_ROOM: Final = 64  # for the rest of the line
_CLOSED: Final = "this connection to NATS is closed"


class _Client(Client):
    """nats-py's client, mended where its own faults would become ours, shortened where every message passes."""

    async def send(self, subject: str, reply: str, head: bytes, body: bytes) -> None:
        """Publish what is encoded and measured already; nats-py's own `publish` takes twice as long over it.

        Args:
            subject: where to.
            reply: where an answer goes, or empty.
            head: the headers as they travel, or empty.
            body: the body.
        """
        mine = cast("Any", self)
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if not self.is_connected and len(head) + len(body) + mine._pending_data_size > mine._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        sizes = f"{len(head)} {len(head) + len(body)}" if head else len(body)
        line = f"{'HPUB' if head else 'PUB'} {subject} {reply} {sizes}\r\n"
        words = line.split()
        if words[1] != subject or len(words) != 3 + bool(reply) + bool(head):
            # The server would close the connection over it.
            raise InvalidParams(f"{subject!r}, with the answer to {reply!r}, is no subject: it is empty or has spaces")
        encoded = line.encode()
        if len(encoded) > _LONGEST_LINE:
            raise InvalidParams(f"{subject[:64]!r}…, with the answer to {reply[:64]!r}, is no subject: it is too long")
        await mine._send_command(b"%b%b%b\r\n" % (encoded, head, body))
        if mine._flush_queue is not None and mine._flush_queue.empty():
            await mine._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # The short way to an inlet, past what nats-py does for queues, limits and JetStream.
        mine = cast("Any", self)
        interest = mine._subs.get(sid)
        if interest is None or not isinstance(interest._future, _Inlet):
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            if not headers:
                known = None
            elif headers.startswith(PLAIN):
                known = read_headers(headers)
            else:  # the server's own words: a status
                known = await mine._process_headers(headers)
            message = Message(subject.decode(), Body(encoded=data), reply=reply.decode(), headers=known or None)
        except (IndexError, ValueError):  # the read loop would end over it, and nobody be heard any more
            log.warning("a message whose subject, reply or headers are no text was dropped")
            return
        interest._future.take(message)

    async def flush(self, timeout: int = 10) -> None:
        # nats-py reports success when it cannot even ask.
        reading = cast("Any", self)._reading_task
        if not self.is_connected or reading is None or reading.done():
            raise nats.errors.ConnectionReconnectingError
        await super().flush(timeout)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes a PING at once, ahead of what waits for its flusher: the answer would say nothing of that, and
        # neither `flush` nor the end of a subscription could be relied on.
        mine = cast("Any", self)
        if self.is_connected and mine._pending:
            mine._transport.writelines(mine._pending)
            mine._pending, mine._pending_data_size = [], 0
        await cast("Any", super())._send_ping(future)

    async def _process_pong(self) -> None:
        # A flush that ran out of time leaves its future in the line, cancelled; nats-py ends its read loop over it.
        mine = cast("Any", self)
        if mine._pongs and mine._pongs[0].done():
            mine._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _connect_to_server(self, s: Any) -> None:
        # An attempt to reconnect that failed half-way leaves its socket open.
        if socket := cast("Any", self)._transport:
            socket.close()
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        # What speaks another protocol makes nats-py stumble in many ways; it tries again after its own errors alone.
        try:
            await super()._process_connect_init()
        except (OSError, nats.errors.Error, TimeoutError):
            raise
        except Exception as stumbled:
            raise nats.errors.Error(f"nats: {stumbled}") from stumbled

    async def end(self) -> None:
        """Close in any case and in time.

        nats-py waits for ever for a server that takes nothing more, and where it cancels itself while it reconnects,
        it would cancel us with it; so it closes in a task of its own.
        """
        closing = asyncio.get_running_loop().create_task(self.close())
        await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
        unfinished = closing.cancel() or closing.cancelled() or closing.exception() is not None
        if unfinished and (writer := getattr(cast("Any", self)._transport, "_io_writer", None)):
            writer.transport.abort()


class _Inlet:
    """Stands where nats-py keeps a future for one message, and takes each: no queue and no task in between."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def take(self, message: Message) -> None:
        try:
            self._receiver(message)
        except Exception:  # the read loop serves everybody; one receiver's fault must not end it
            log.exception("receiving %s failed", message.subject)


class _Interest:
    """One subject heard, on whichever client is alive."""

    def __init__(self, transport: NatsTransport, subject: str, receiver: Receiver, queue: str) -> None:
        self._transport = transport
        self._subject = subject
        self._queue = queue
        self._inlet = _Inlet(receiver)
        self._client: Client | None = None
        self._on_server: NatsSubscription | None = None
        self._closed = False

    async def renew(self, client: Client) -> None:
        if self._closed:
            return
        untyped = cast("Any", client)  # nats-py types its futures only in part, and wants a whole one
        self._on_server = await untyped.subscribe(self._subject, queue=self._queue, future=self._inlet)
        self._client = client

    async def abandon(self) -> None:
        """Unsubscribe, without waiting for the server."""
        self._closed = True
        self._transport.forget(self)
        if self._on_server is not None:
            with suppress(nats.errors.Error):
                await self._on_server.unsubscribe()

    async def close(self) -> None:
        """Unsubscribe and hear out what the server had sent by then."""
        if self._closed:
            return
        self._closed = True
        self._transport.forget(self)
        if self._client is None or self._on_server is None:
            return
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._on_server.drain()
        except (nats.errors.Error, OSError, TimeoutError):
            log.debug("%s was closed while the connection was away", self._subject)
            # Or nats-py would renew it when it reconnects.
            cast("Any", self._client)._remove_sub(cast("Any", self._on_server)._id)


class NatsTransport:
    """A supervised connection to a NATS server or cluster. Made by `connect`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._client = _Client()
        self._interests: list[_Interest] = []
        self._listeners: list[ConnectionListener] = []
        self._closing = False
        self._told: ConnectionEvent = "connected"
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
        servers = servers_in(url)
        options: dict[str, Any] = {"servers": [bare(server) for server in servers], "name": name, **user_in(servers)}
        options |= {"user_credentials": checked_credentials(credentials)} if credentials else {}
        options |= {"tls": tls} if tls else {}
        transport = NatsTransport(options)
        await transport._open()
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
        body, head = message.body.encoded(), encode_headers(message.headers)
        # The server counts headers too, and closes the connection over one byte more.
        if len(head) + len(body) > self.max_message:
            raise MessageTooLarge(
                f"the message has {len(head) + len(body)} bytes, NATS takes {self.max_message}",
                fix="send less, or raise max_payload in the server's configuration",
            )
        try:
            await self._client.send(message.subject, message.reply, head, body)
        except (nats.errors.Error, OSError) as away:
            raise self._away(away) from away

    async def subscribe(self, subject: str, receiver: Receiver, *, queue: str = "") -> _Interest:
        if self._closing:
            raise TransportClosed(_CLOSED)
        if f"{subject} {queue}".split() != [subject, queue][: 1 + bool(queue)]:
            raise InvalidParams(f"{subject!r}, in group {queue!r}, is no subject: it is empty or has spaces")
        if len(f"{subject}{queue}".encode()) > _LONGEST_LINE - _ROOM:
            raise InvalidParams(f"{subject[:64]!r}…, in group {queue[:64]!r}, is no subject: it is too long")
        interest = _Interest(self, subject, receiver, queue)
        self._interests.append(interest)
        if not self._client.is_closed:
            try:
                await interest.renew(self._client)
                if self.connected:
                    await self.flush()
            except (nats.errors.ConnectionClosedError, TransportUnavailable):
                log.debug("%s will be heard on the next connection", subject)
            except asyncio.CancelledError:  # nobody gets the interest, so nobody could close it
                await interest.abandon()
                raise
        return interest

    def forget(self, interest: _Interest) -> None:
        """Do not renew `interest` on the next client."""
        if interest in self._interests:
            self._interests.remove(interest)

    async def flush(self) -> None:
        try:
            await self._client.flush(timeout=_FLUSH_SECONDS)
        except (nats.errors.Error, OSError, TimeoutError, AttributeError) as away:
            raise self._away(away) from away

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
            await asyncio.wait([self._supervisor], timeout=_CLOSE_SECONDS)
        with suppress(TransportUnavailable):
            await self.flush()
        await self._client.end()
        self._interests.clear()

    # supervision

    async def _open(self) -> None:
        """Connect a new client and renew every interest on it.

        Raises:
            ConfigurationError, TransportUnavailable: as `connect`; nothing is left of the attempt.
        """
        client = _Client()
        failures: list[Exception] = []

        async def on_error(error: Exception) -> None:
            failures.append(error)
            del failures[:-8]
            log.debug("nats: %s", error)

        async def on_disconnected() -> None:
            if client is self._client:
                self._tell("disconnected")

        async def on_reconnected() -> None:
            self._tell("connected")

        async def on_closed() -> None:
            self._lost.set()

        try:
            async with asyncio.timeout(_CONNECT_SECONDS * 3):
                await client.connect(
                    **self._options,
                    error_cb=on_error,
                    closed_cb=on_closed,
                    disconnected_cb=on_disconnected,
                    reconnected_cb=on_reconnected,
                    connect_timeout=_CONNECT_SECONDS,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=_PING_SECONDS,
                    max_outstanding_pings=_PINGS_UNANSWERED,
                    pending_size=_BUFFER_BYTES,
                    flush_timeout=_CONNECT_SECONDS,  # who publishes into a full buffer waits no longer
                    # every subject comes from the catalogue in `contracts.subjects`, which checks what goes into it
                    skip_subject_validation=True,
                )
                client.options["max_reconnect_attempts"] = -1
                cast("Any", client)._reconnect_to_server_handler = _choose
                self._client = client  # from here on, new interests go to it
                for interest in list(self._interests):
                    await interest.renew(client)
                await client.flush(timeout=_CONNECT_SECONDS)
        except BaseException as failure:
            await client.end()
            if isinstance(failure, (nats.errors.Error, OSError, TimeoutError)):
                raise self._refusal(failure, failures) from failure
            raise
        self._tell("connected")

    def _away(self, cause: Exception) -> TransportUnavailable:
        if self._closing:
            return TransportClosed(_CLOSED)
        return TransportUnavailable(f"NATS is away: {cause or type(cause).__name__}")

    def _refusal(self, failure: Exception, failures: list[Exception]) -> Exception:
        where = ", ".join(shown(server) for server in self._options["servers"])
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
        while not self._closing:  # nats-py swallows a cancellation here and there
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self._lost.wait()
            self._lost.clear()
            if not self._client.is_closed:
                unanswered = 0 if await self._answers() else unanswered + 1
                if unanswered < _PROBES_UNANSWERED:
                    continue
                log.warning("the NATS client does not answer; it is replaced")
            unanswered = 0
            await self._replace()

    async def _answers(self) -> bool:
        if not self._client.is_connected:
            reconnecting = cast("Any", self._client)._reconnection_task
            return reconnecting is not None and not reconnecting.done()
        try:
            await self.flush()
        except TransportUnavailable:
            return False
        return True

    async def _replace(self) -> None:
        await self._client.end()
        wait = _FIRST_WAIT
        while not self._closing:
            try:
                await self._open()
                return
            except (TransportUnavailable, ConfigurationError) as failure:
                log.warning("%s", failure)
            await asyncio.sleep(random.uniform(wait / 2, wait))
            wait = min(wait * 2, _LONGEST_WAIT)

    def _tell(self, event: ConnectionEvent) -> None:
        """Tell the listeners, once for each loss and each return."""
        if self._closing or event == self._told:
            return
        self._told = event
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:  # nats-py tells us in the midst of reconnecting, and would never finish
                log.exception("a listener failed to hear that the connection to NATS is %s", event)


def _choose(servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
    """The next server to try, and how many seconds to wait before: longer and more random with each failure."""
    server = min(servers, key=lambda each: (each.reconnects, random.random()))
    wait = min(_FIRST_WAIT * 2 ** min(server.reconnects, 5), _LONGEST_WAIT)
    return server, random.uniform(wait / 2, wait)
