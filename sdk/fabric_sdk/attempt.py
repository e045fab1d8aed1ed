"""One attempt at a task: its record, written by compare-and-set, so that of two attempts only the later one writes.

Above: the taker, and the handler through its `Context`. Below: JetStream. Whoever lost the task to another attempt
learns it at its next write (`Superseded`), and writes nothing more.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

import orjson
from opentelemetry.trace import Span
from pydantic_core import to_jsonable_python

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import RECORDS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import CARRIED, Policy, Record, largest_params
from fabric_sdk.jetstream import Delivery, JetStream, WrongSequence
from fabric_sdk.routing.asking import park, questions

_NOT_NOW_SECONDS: Final = 1.0
"""Between two attempts to write where there is no room, or no broker."""
_MOST_ERRORS: Final = 10
_MOST_PROGRESS: Final = 4096
"""Bytes of the progress that is kept: less than the room that is left for how a task ends."""
_FEW_WORDS: Final = 200
"""Characters of the last error, where there is no room for all."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Superseded(errors.HandlerFailed):
    """Another attempt has this task now, or it was cancelled: what this one still does is not kept."""


class Attempt:
    """One attempt, from the delivery of its message to its acknowledgement."""

    def __init__(self, jetstream: JetStream, delivery: Delivery, record: Record, policy: Policy) -> None:
        self.delivery = delivery
        self.record = record
        self.policy = policy
        self.written = 0
        """The place of the record as this attempt knows it; 0: it has none yet."""
        self.deadline = time.time() + policy.timeout
        self.heard = time.monotonic()
        self.unwritten = False
        """Whether progress was made that the record does not say yet."""
        self.span: Span | None = None
        """Where it is told what becomes of it, if its trace is sampled."""
        self._jetstream = jetstream
        self._subject = subjects.record(record.agent, record.id)
        self._writing = asyncio.Lock()

    # what the handler sees

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def attempt(self) -> int:
        return self.record.attempt

    @property
    def token(self) -> int:
        return self.delivery.sequence << 16 | min(self.record.given, 0xFFFF)

    @property
    def saved(self) -> Any:
        return self.record.saved[0] if self.record.saved else None

    async def beat(self) -> None:
        self.heard = time.monotonic()

    async def save(self, state: Any) -> None:
        self.heard = time.monotonic()
        before, self.record.saved = self.record.saved, [_jsonable(state)]
        try:
            await self._keep()
        except errors.FabricError:
            self.record.saved = before
            raise

    async def once(self, step: str, do: Callable[[], Any]) -> Any:
        if step in self.record.steps:
            return self.record.steps[step]
        value: Any = do()
        if inspect.isawaitable(value):
            value = await value
        self.heard = time.monotonic()
        self.record.steps[step] = _jsonable(value)
        try:
            await self._keep()
        except errors.FabricError:
            del self.record.steps[step]
            raise
        return value

    async def emit(self, reply: str, kind: str, frame: dict[str, Any]) -> None:
        """Tell whoever watches of progress or a log entry; progress is also kept, once a second."""
        self.heard = time.monotonic()
        try:
            encoded = orjson.dumps(frame)
        except TypeError as unfit:  # it is not worth the work that it tells of
            log.warning("a %s frame of task %s has no JSON form and was dropped: %s", kind, self.id, unfit)
            return
        if kind == "progress" and len(encoded) <= _MOST_PROGRESS:
            self.record.progress = frame
            self.unwritten = True
        try:
            message = Message(reply, Body(encoded=encoded), headers={Header.FRAME: kind})
            await self._jetstream.transport.publish(message)
        except errors.TransportUnavailable:
            return  # the work goes on without

    # what is written

    @property
    def behind(self) -> bool:
        """Whether the record does not say yet that this attempt is, or how far: and nobody is at it."""
        return (self.unwritten or not self.written) and not self._writing.locked()

    async def _keep(self) -> None:
        """Write down what the handler wants kept, and leave room for how its task ends."""
        most = largest_params(self._jetstream.transport.max_message)
        try:
            size = len(self.record.body().encoded())  # with all that is around it, since JSON is so deep and no deeper
        except TypeError as unfit:
            raise _unkept(unfit) from unfit
        if size > most:
            raise errors.MessageTooLarge(f"the task would keep {size} bytes, and there is room for {most}")
        # To its end, though the handler may be ended meanwhile: a write that is cut off would look like another's.
        await asyncio.shield(self.write())

    async def write(self) -> None:
        """Put the record down as it is now, however long there is no room or no broker.

        Raises:
            Superseded: somebody else has written it since.
        """
        async with self._writing:
            self.unwritten = False
            self.record.changed = time.time()
            message = Message(self._subject, self.record.body(), headers=self._headers())
            try:
                stored = await until_stored(
                    partial(self._jetstream.store, message.subject, message.body, message.headers)
                )
                self.written = stored.sequence
            except WrongSequence as wrong:
                self.written = await self._mine() or _superseded(wrong)

    async def bury(self) -> None:
        """Write down that the task is dead, together with its letter: both or neither.

        Raises:
            Superseded: somebody else has written the record since.
        """
        async with self._writing:
            record = self.record
            record.state, record.changed = "dead", time.time()
            try:
                await until_stored(self._store_dead)
            except errors.MessageTooLarge:  # the errors of many attempts, beside large params
                record.errors = [{**last, "error": str(last["error"])[:_FEW_WORDS]} for last in record.errors[-1:]]
                await until_stored(self._store_dead)
            except WrongSequence as wrong:
                _ = await self._mine() or _superseded(wrong)

    async def _store_dead(self) -> None:
        end = Message(self._subject, self.record.body(), headers=self._headers())
        ttl = {Header.TTL: f"{self.record.lasts}s"}
        letter = Message(subjects.dead(self.record.agent, self.record.id), self._letter(), headers=ttl)
        await self._jetstream.store_all([end, letter])

    def answered(self, result: bytes) -> None:
        """Note what the handler answered: the end, or questions."""
        if (asked := questions(result)) is None:
            self.record.state, self.record.result = "completed", result
        else:
            park(self.record, asked, self.delivery.message.body, self._passed_on())

    def failed(self, failure: str, code: int) -> None:
        """Note how this attempt ended."""
        told = {"attempt": self.record.before + self.attempt, "error": failure, "code": code}
        told |= {"instance": self.record.instance, "at": time.time()}
        if trace := self.delivery.message.header(Header.TRACEPARENT):
            told["trace"] = trace
        self.record.errors.append(told)
        del self.record.errors[:-_MOST_ERRORS]

    def _headers(self) -> dict[str, str]:
        return {Header.EXPECTED: str(self.written), Header.TTL: f"{self.record.lasts}s"}

    def _letter(self) -> Body:
        record = self.record
        letter: dict[str, Any] = {"id": record.id, "agent": record.agent, "tool": record.tool}
        letter |= {"priority": record.priority, "died": record.changed, "errors": record.errors}
        letter["headers"] = self._passed_on()
        letter["params"] = orjson.Fragment(self.delivery.message.body.encoded() or b"null")
        return Body(encoded=orjson.dumps(letter))

    def _passed_on(self) -> dict[str, str]:
        headers = self.delivery.message.headers or {}
        return {name: headers[name] for name in (*CARRIED, Header.ROUND) if name in headers}

    async def _mine(self) -> int:
        """The place of the record if it is what was just written, though the answer was lost; else 0."""
        found = await self._jetstream.last(RECORDS, self._subject)
        if found is None:
            return 0
        record, mine = Record.of(found.subject, found.body), self.record
        same = (record.instance, record.changed, record.state) == (mine.instance, mine.changed, mine.state)
        return found.sequence if same else 0


async def until_stored(store: Callable[[], Awaitable[T]]) -> T:
    """What `store` returns, once it can: what a task has come to is all that the work was for."""
    told = False
    while True:
        try:
            return await store()
        except (errors.QueueFull, errors.TransportUnavailable) as not_now:
            if not not_now.retryable:
                raise
            if not told:
                log.warning("how a task stands cannot be written down yet: %s", not_now)
                told = True
        await asyncio.sleep(_NOT_NOW_SECONDS)


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except ValueError as unfit:
        raise _unkept(unfit) from unfit


def _unkept(unfit: Exception) -> errors.UnencodableResult:
    """Another attempt would do the step once more, and end here again."""
    return errors.UnencodableResult(f"only JSON values can be kept with a task: {unfit}")


def _superseded(cause: BaseException) -> int:
    raise Superseded from cause
