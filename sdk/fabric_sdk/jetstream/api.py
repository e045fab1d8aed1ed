"""JetStream's own protocol, spoken over any transport: requests, stored publishes, reads.

Above: patterns and workers. Below: the seam. nats-py's JetStream client lacks what the fabric is built on (priority
pulls, atomic batches, a reason with a termination) and loses pulls (ADR 7), while the protocol itself is JSON over
request and reply. Where nobody speaks it, as on the in-process bus, the first question says so.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from uuid import uuid4

import orjson

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.streams import Consumer, Stream, stream_of
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import replicas
from fabric_sdk.transports.base import ConnectionEvent, Subscription, Transport

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0
"""How long one question waits for its answer."""
PATIENCE: Final = 20.0
"""Seconds for which a question is repeated: a cluster elects a new leader well within it."""
_WITHOUT_JETSTREAM: Final = 2.0
"""Seconds of patience where nobody even hears the question: there is no JetStream, unless a cluster just came up."""
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 0.5

_NOT_NOW: Final = frozenset((10006, 10008, 10009))
"""JetStream's error codes for what passes by itself: a cluster without a leader for a moment."""


class _Unheard(errors.TransportUnavailable):
    """Nobody hears what was published."""


class _NoJetStream(errors.TransportUnavailable):
    """Nobody hears JetStream's API."""


class WrongSequence(errors.FabricError):
    """Somebody else wrote here in between."""


class SubjectTaken(errors.FabricError):
    """There is a message on this subject already."""


class TooFewServers(errors.TransportUnavailable):
    """The cluster has not, or not yet, as many servers as a stream is to be kept on."""


class Missing(errors.FabricError):
    """There is no such stream, consumer or message."""


class Refused(errors.FabricError):
    """JetStream refuses."""

    err_code = 0
    """JetStream's own number for the reason."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the server says of a message once it is on the disk."""

    sequence: int
    duplicate: bool = False
    """Whether it was there already, by its `Nats-Msg-Id`."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream keeps it."""

    subject: str
    sequence: int
    stored: float
    """When it came there: Unix time in seconds."""
    body: Body
    headers: Mapping[str, str]


class JetStream:
    """Questions to the server's durable half, all answered over one subscription."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.client = uuid4().hex
        self._asked = 0
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._made: set[str] = set()
        self._ack_waits: dict[str, float] = {}
        self.closed = False
        self._opening = asyncio.Lock()
        self._answers: Subscription | None = None
        self._stop_listening = transport.listen(self._connection_changed)

    async def close(self) -> None:
        """Hear no more; questions still open end with `TransportClosed`, and so do new ones."""
        self.closed = True
        self._stop_listening()
        if self._answers is not None:
            await self._answers.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(errors.TransportClosed("this client was closed before the broker answered"))

    # questions

    async def ask(self, message: Message, timeout: float = ANSWER_SECONDS) -> Message:
        """Send `message` and return the answer to it, whatever it says.

        Raises:
            TransportUnavailable: no answer came in time, or nobody hears the subject.
            TransportClosed: this client was closed.
        """
        if self.closed:
            raise errors.TransportClosed("this client is closed")
        if self._answers is None:
            await self._open()
        self._asked += 1
        message.reply = subjects.inbox(self.client, self._asked)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[message.reply] = answer
        try:
            await self.transport.publish(message)
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise errors.TransportUnavailable(f"the broker did not answer within {timeout:g} s") from None
        finally:
            del self._waiting[message.reply]

    async def request(
        self, verb: str, body: Mapping[str, Any] | None = None, *, patience: float = PATIENCE
    ) -> dict[str, Any]:
        """Ask `$JS.API.<verb>` until it is answered, for about `patience` seconds.

        Raises:
            Missing: there is no such thing.
            FabricError: JetStream refuses, or does not answer.
        """
        encoded = orjson.dumps(body) if body else b""

        async def once() -> dict[str, Any]:
            try:
                question = Message(f"$JS.API.{verb}", Body(encoded=encoded))
                return checked(await self.ask(question, min(ANSWER_SECONDS, patience)))
            except _Unheard:
                raise _NoJetStream(**_NO_JETSTREAM) from None

        return await _patiently(once, patience)

    # what exists

    async def ensure(self, stream: Stream) -> None:
        """Create `stream` unless it exists: with as many replicas as are stated, else as the cluster has, up to three.

        Raises:
            TooFewServers: the cluster has fewer servers than are stated; they may still come.
        """
        if stream.name in self._made:
            return
        try:
            await self.request(f"STREAM.INFO.{stream.name}")
        except Missing:
            await _patiently(partial(self._create, stream), PATIENCE)
        self._made.add(stream.name)

    async def _ensure_again(self, stream: Stream) -> None:
        """Create `stream` unless it exists, though it did when last looked at: somebody may have deleted it."""
        self._made.discard(stream.name)
        await self.ensure(stream)

    async def _create(self, stream: Stream) -> None:
        """Make a stream, with as much room as there is up to what it should have."""
        config = stream.config(replicas.stated() or replicas.USUAL)
        while True:
            try:
                await self.request(f"STREAM.CREATE.{stream.name}", config)
                return
            except errors.QueueFull:  # the disk is small
                if config.get("max_bytes", 0) <= _LEAST_BYTES:
                    raise
                config["max_bytes"] //= 2
            except Refused as refused:
                if refused.err_code == _NAME_IN_USE:  # somebody else was quicker
                    return
                settle_for_one(config, refused)

    async def ensure_consumer(self, consumer: Consumer, *, again: bool = False) -> float:
        """Create `consumer`, and its stream, unless they exist; `again`: though they did when last looked at.

        Returns:
            Its `ack_wait`: one that exists keeps that which it was made with.
        """
        name = f"{consumer.stream.name}.{consumer.name}"
        if again:
            self._made -= {consumer.stream.name, name}
        await self.ensure(consumer.stream)
        if name not in self._made:
            try:
                self._remember(consumer, await self.request(f"CONSUMER.INFO.{name}"))
            except Missing:
                await self.create_consumer(consumer)
        return self._ack_waits[name]

    async def create_consumer(self, consumer: Consumer, *, patience: float = PATIENCE) -> int:
        """Create `consumer`, which nobody else has made, and its stream; returns how many messages it will deliver."""
        await self.ensure(consumer.stream)
        verb = f"CONSUMER.CREATE.{consumer.stream.name}.{consumer.name}"
        try:
            there = await self.request(verb, consumer.config(), patience=patience)
        except Missing:
            await self._ensure_again(consumer.stream)
            there = await self.request(verb, consumer.config(), patience=patience)
        self._remember(consumer, there)
        return int(there.get("num_pending", 0))

    def _remember(self, consumer: Consumer, there: Mapping[str, Any]) -> None:
        name = f"{consumer.stream.name}.{consumer.name}"
        self._ack_waits[name] = there["config"].get("ack_wait", 0) / 1_000_000_000
        self._made.add(name)

    async def forget_consumer(self, consumer: Consumer) -> None:
        """Remove `consumer`, without waiting for the answer: one that stays is one that nobody asks."""
        name = f"{consumer.stream.name}.{consumer.name}"
        self._made.discard(name)
        self._ack_waits.pop(name, None)
        with suppress(errors.TransportUnavailable):
            reply = subjects.inbox(self.client, 0)
            await self.transport.publish(Message(f"$JS.API.CONSUMER.DELETE.{name}", reply=reply))

    # storing

    async def store(
        self, subject: str, body: Body, headers: Mapping[str, str] | None = None, *, patience: float = PATIENCE
    ) -> Stored:
        """Publish, and return once the server has it on the disk.

        Sent again until the server answers, so it should carry a `Nats-Msg-Id` or an expected sequence. A repeat may
        then be refused for what the first attempt stored: who can tell looks at what is there. A stream of the fabric's
        that somebody deleted is made anew.

        Raises:
            WrongSequence: it expected another last message on its subject.
            SubjectTaken: the stream keeps one message for each subject, and has one.
            QueueFull: the stream takes no more.
            TransportUnavailable: the server did not answer within `patience` seconds, or has no such stream.
        """

        async def once() -> Stored:
            answer = checked(await self.ask(Message(subject, body, headers=headers)))
            return Stored(answer["seq"], answer.get("duplicate", False))

        return await _patiently(partial(self._heard, subject, once), patience)

    async def store_all(self, messages: Sequence[Message]) -> None:
        """Publish up to a thousand messages to one stream: all of them are stored, or none.

        Sent again until the server answers, as with `store`.

        Raises:
            As `store`; `WrongSequence` and `SubjectTaken` for any of them, a repeated `Nats-Msg-Id` included.
        """

        async def once() -> None:
            batch = uuid4().hex  # a new one each time: of the one before, the server may hold a part
            parts = [_in_batch(message, batch, number) for number, message in enumerate(messages, 1)]
            parts[-1].headers = {**(parts[-1].headers or {}), Header.BATCH_COMMIT: "1"}
            for message in parts[:-1]:
                await self.transport.publish(message)
            checked(await self.ask(parts[-1]))

        await _patiently(partial(self._heard, messages[0].subject, once), PATIENCE)

    async def _heard(self, subject: str, once: Callable[[], Awaitable[T]]) -> T:
        """What `once` comes to, which stores something on `subject`; if no stream hears it, once more with one made."""
        try:
            return await once()
        except _Unheard:
            if (stream := stream_of(subject)) is None:
                raise errors.TransportUnavailable(f"no stream takes what is published on {subject}") from None
        try:
            await self._ensure_again(stream)
            return await once()
        except _NoJetStream as without:  # what is to be stored waits for it longer than a question does
            raise errors.TransportUnavailable(without.message, fix=without.fix) from None
        except _Unheard:
            raise errors.TransportUnavailable(
                f"the stream {stream.name} does not take what is published on {subject}",
                fix=f"look at its subjects and its leader: `nats stream info {stream.name}`",
            ) from None

    # reading

    async def last(self, stream: Stream, subject: str) -> StoredMessage | None:
        """The last message on `subject`, as the stream's leader has it: never an older one."""
        return await self._kept(stream, {"last_by_subj": subject})

    async def at(self, stream: Stream, sequence: int) -> StoredMessage | None:
        """The message with this sequence, unless it is gone."""
        return await self._kept(stream, {"seq": sequence})

    async def every(self, stream: Stream, subject: str, *, after: int = 0) -> AsyncGenerator[StoredMessage]:
        """Every message that `subject` matches and that is there now, oldest first; those `after` a place alone."""
        end = await self.end_of(stream)  # or who answers each with a new message would never come to an end
        while after < end:
            message = await self._kept(stream, {"seq": after + 1, "next_by_subj": subject})
            if message is None:
                return
            after = message.sequence
            if after <= end:
                yield message

    async def _kept(self, stream: Stream, asked: dict[str, Any]) -> StoredMessage | None:
        """The one message that is asked for, if there is one."""
        try:
            answer = await self.request(f"STREAM.MSG.GET.{stream.name}", asked)
        except Missing:
            return None
        return _message_of(answer["message"])

    async def end_of(self, stream: Stream) -> int:
        """The place of the last message that was ever stored; 0: none was."""
        try:
            about = await self.request(f"STREAM.INFO.{stream.name}")
        except Missing:
            return 0
        return int(about["state"]["last_seq"])

    async def delete(self, stream: Stream, sequence: int) -> bool:
        """Remove one message; tell whether it was there."""
        try:
            await self.request(f"STREAM.MSG.DELETE.{stream.name}", {"seq": sequence, "no_erase": True})
        except Missing:
            return False
        except Refused as refused:
            if refused.err_code != _NOT_DELETED:
                raise
            return False
        return True

    async def purge(self, stream: Stream, subject: str) -> int:
        """Remove every message on `subject`; tell how many there were."""
        try:
            answer = await self.request(f"STREAM.PURGE.{stream.name}", {"filter": subject})
        except Missing:
            return 0
        return int(answer.get("purged", 0))

    # hearing

    async def _open(self) -> None:
        async with self._opening:
            if self._answers is None:
                self._answers = await self.transport.subscribe(subjects.inboxes(self.client), self._receive)

    def _receive(self, message: Message) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._made.clear()  # it may be another server, with an empty disk
            return
        for waiting in self._waiting.values():  # their answers went with the connection: ask again at once
            if not waiting.done():
                waiting.set_exception(errors.TransportUnavailable("the connection was lost before the broker answered"))


_NO_JETSTREAM: Final = {
    "message": "no JetStream answers",
    "fix": "durable work needs a NATS server with JetStream, as `fabric up` starts one",
}
_NOT_DELETED: Final = 10057
"""There was no such message to delete."""
_LEAST_BYTES: Final = 8 * 1024 * 1024
_NAME_IN_USE: Final = 10058
_NO_REPLICAS: Final = frozenset((10005, 10074))
"""Too few servers, or no cluster at all."""
_REASON: Final = re.compile(r"\((\d{5})\)$")
_BATCH_HAS_DUPLICATE: Final = 10201
_MISSING: Final = frozenset((10014, 10037, 10043, 10059))
_FULL: Final = frozenset((10023, 10028, 10047, 10077))


def checked(answer: Message) -> dict[str, Any]:
    """The JSON of an answer that says yes; raises what it says instead."""
    if answer.header(Header.STATUS) == "503":
        raise _Unheard
    said = answer.body.members()
    refusal: dict[str, Any] | None = said.get("error")
    if refusal is None:
        return said
    code, words = int(refusal.get("err_code", 0)), str(refusal.get("description", ""))
    if inner := _REASON.search(words):  # a failed restore has a number of its own, and that of the reason in its words
        code = int(inner[1])
    if code in (10071, 10164):
        raise WrongSequence(words)
    if "per subject" in words or code == _BATCH_HAS_DUPLICATE:
        raise SubjectTaken(words)
    if code in _FULL:
        raise errors.QueueFull(f"the queue takes no more: {words}")
    if code in _MISSING:
        raise Missing(words)
    if code in _NOT_NOW:
        raise errors.TransportUnavailable(f"JetStream is not ready: {words}")
    refused = Refused(f"JetStream refuses: {words} ({code})")
    refused.err_code = code
    raise refused


def settle_for_one(config: dict[str, Any], refused: Refused) -> None:
    """Have a stream kept on one server: it was refused as the cluster has fewer than its `config` asks for.

    Raises:
        TooFewServers: the environment says how many there have to be; they may still come.
        Refused: that was not why.
    """
    if config["num_replicas"] == 1 or refused.err_code not in _NO_REPLICAS:
        raise refused
    if (copies := replicas.stated()) is not None:
        raise TooFewServers(
            f"{config['name']} is to be kept on {copies} servers, and NATS has not as many now",
            fix=f"start them; {replicas.VARIABLE} says how many there have to be",
        ) from refused
    config["num_replicas"] = 1


async def _patiently(once: Callable[[], Awaitable[T]], patience: float) -> T:
    """Do `once` until it is answered: leaders are elected, servers restarted."""
    began, wait = time.monotonic(), _FIRST_WAIT
    until = began + patience
    while True:
        try:
            return await once()
        except errors.TransportUnavailable as away:
            if isinstance(away, _NoJetStream):
                until = min(until, began + _WITHOUT_JETSTREAM)
            if not away.retryable or time.monotonic() + wait > until:
                raise
        await asyncio.sleep(random.uniform(wait / 2, wait))
        wait = min(2 * wait, _LONGEST_WAIT)


def _in_batch(message: Message, batch: str, number: int) -> Message:
    headers = {**(message.headers or {}), Header.BATCH: batch, Header.BATCH_SEQUENCE: str(number)}
    return Message(message.subject, message.body, headers=headers)


def _message_of(kept: Mapping[str, Any]) -> StoredMessage:
    body = Body(encoded=base64.b64decode(kept["data"])) if kept.get("data") else EMPTY
    lines = base64.b64decode(kept.get("hdrs", "")).decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) if ": " in line else line.split(":", 1) for line in lines if ":" in line)
    stored = datetime.fromisoformat(kept["time"]).timestamp()
    return StoredMessage(kept["subject"], kept["seq"], stored, body, headers)
