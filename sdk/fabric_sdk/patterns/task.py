"""Tasks: work that is kept until its end is on record.

Guarantee: **what was accepted ends exactly once on record**, as `completed`, `dead`, `cancelled` or `expired`,
through any crash. A key names one task until its end is no longer kept: whoever starts it again joins it, and whoever
starts something else with it is refused.

Above: `client`, the gateway. Below: `start`, JetStream. Starting a task is one stored message in `TASKS`; its record in
`RECORDS` is written by the worker that has it (`attempt`), and each change is told to whoever waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import LATER, RECORDS, TASKS, Stream
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import CARRIED, LONGEST_UNENDED, Parked, Record, largest_params, priority_of
from fabric_sdk.jetstream import Claims, JetStream, StoredMessage, SubjectTaken, WrongSequence
from fabric_sdk.patterns.call import OnFrame
from fabric_sdk.patterns.leftover import drop_leftover
from fabric_sdk.patterns.start import Start, record_of, traced
from fabric_sdk.routing.asking import hold, resumed, take_answers

_LOOK_SECONDS: Final = 5.0
"""Between two looks at a record that is waited for: the net under what is told, which may get lost."""
_LOOKS: Final = 100
"""At a task that somebody else changes each time, before its new state is written."""
MOST_AT_ONCE: Final = 1000
"""Tasks in one atomic batch, as JetStream has it."""


class Tasks:
    """Starts tasks, reads and waits for their records, cancels them."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._claims = Claims(jetstream)

    async def start(self, start: Start) -> bool:
        """Accept a task: returns once the server has it on the disk.

        Returns:
            Whether this started it; `False`: there was one of this key already, and this is that one.

        Raises:
            KeyReused: there is one of this key, with another tool or other arguments.
            QueueFull: the queue takes no more.
            TransportUnavailable: the server did not answer; whether it has the task is unknown. With the same key it
                may be started again without harm.
        """
        try:
            with traced([start]):
                return await self._start(start)
        except BaseException:  # cancelled too: it may not have been started
            start.take_back()
            raise

    async def _start(self, start: Start) -> bool:
        later = start.at is not None and start.at > time.time()
        await self._ensure()
        if start.key is not None and await self._is_known(start):
            return False
        await self._fit(start)
        message = start.message_for_later() if later else start.message()
        try:
            stored = await self._jetstream.store(message.subject, message.body, message.headers)
            fresh = not stored.duplicate
        except (SubjectTaken, WrongSequence):
            fresh = False
        except errors.QueueFull:
            await self._drop_leftover(start)
            raise
        if not fresh:
            await self._drop_leftover(start)
            await self._is_known(start)  # somebody was quicker; with the same?
            return False
        if start.key is None or await self._prevails(start, later):
            return True
        await self._is_known(start)
        return False

    async def hold(self, start: Start, reason: str) -> bool:
        """Accept a task that may not begin yet: it is on record and in no queue until `release`, or `cancel`.

        Args:
            start: the task; neither its time nor its expiry counts.
            reason: what it waits for, in words.

        Returns:
            Whether this accepted it; `False`: there is a task of this id already.

        Raises:
            QueueFull, TransportUnavailable: as `start`.
        """
        await self._ensure()
        await self._fit(start)
        headers = {name: value for name, value in start.headers().items() if name in CARRIED}
        record = record_of(headers, start.params)
        record.id, record.agent, record.priority, record.queued = start.id, start.agent, start.priority, time.time()
        hold(record, reason, start.params, headers)
        if await self._write(record, 0):
            return True
        there, _ = await self._look(start.agent, start.id)
        if start.claim and there.parked and there.parked["headers"].get(Header.CLAIM) != start.claim:
            await self._claims.drop(start.claim)
        return False

    async def release(self, agent: str, task_id: str) -> Record:
        """Let a task that is held begin; any other stays as it is. Returns how it stands.

        Raises:
            UnknownTask: as `read`.
        """
        for _ in range(_LOOKS):
            record, place = await self._look(agent, task_id)
            if record.state != "held" or record.parked is None:
                return record
            await self._resume(record, record.parked)
            record.state, record.parked, record.reason = "queued", None, ""
            if await self._write(record, place):
                return record
        raise _restless(task_id)

    async def start_all(self, starts: Sequence[Start]) -> bool:
        """Accept all of these tasks, or none.

        Returns:
            Whether this started them; `False`: every one was started before, and these are those.

        Raises:
            InvalidParams: they are none or too many, one is for later, or some of them were started before.
            Others: as `start`.
        """
        if not 0 < len(starts) <= MOST_AT_ONCE:
            raise errors.InvalidParams(f"one batch starts 1 to {MOST_AT_ONCE} tasks, not {len(starts)}")
        if any(start.at is not None for start in starts):
            raise errors.InvalidParams("tasks for later cannot be started in one batch with others")
        try:
            with traced(starts):
                return await self._start_all(starts)
        except BaseException:  # cancelled too: they may not have been started
            for start in reversed(starts):
                start.take_back()
            raise

    async def _start_all(self, starts: Sequence[Start]) -> bool:
        await self._ensure()
        if known := await self._known([start for start in starts if start.key is not None]):
            return _all_or_none(known, starts)
        for start in starts:
            await self._fit(start)
        try:
            await self._jetstream.store_all([start.message() for start in starts])
        except SubjectTaken:  # by a repetition elsewhere, or by this very batch, if only its answer was lost
            for start in starts:
                await self._drop_leftover(start)
            return _all_or_none(await self._known(starts), starts)
        except errors.QueueFull:
            for start in starts:
                await self._drop_leftover(start)
            raise
        return True

    async def of_key(self, start: Start) -> Record | None:
        """How the task stands that this one would join; nothing, if it would be the first of its key, or has none.

        Raises:
            KeyReused: as `start`.
        """
        await self._ensure()
        if start.key is None or not await self._is_known(start):
            return None
        return await self.read(start.agent, start.id)

    async def _known(self, starts: Sequence[Start]) -> int:
        """How many of these are on record or wait."""
        return sum(await asyncio.gather(*(self._is_known(start) for start in starts)))

    async def _is_known(self, start: Start) -> bool:
        """Whether this task is on record, or waits in any class and for any time.

        Raises:
            KeyReused: it is, with another tool or other arguments.
        """
        kept, waiting = await asyncio.gather(
            self._jetstream.last(RECORDS, subjects.record(start.agent, start.id)), self._waiting(start.agent, start.id)
        )
        if waiting is not None:
            _check_same(start, record_of(waiting[1].headers, waiting[1].body))
        elif kept is not None:
            with suppress(errors.UnreadableRecord):
                _check_same(start, Record.of(kept.subject, kept.body))
        return kept is not None or waiting is not None

    async def _prevails(self, start: Start, later: bool) -> bool:
        """Settle a race of two that started one key at the same time, one of them for later: that one yields.

        Each looks only after its own is stored, so one of them at least sees the other.
        """
        record = await self._jetstream.last(RECORDS, subjects.record(start.agent, start.id)) if later else None
        found = await self._everywhere(start.agent, start.id)
        if later and record is None and all(stream is LATER for stream, _ in found):
            return True
        for stream, message in found:
            if stream is LATER:
                await self._jetstream.delete(LATER, message.sequence)
                claim = message.headers.get(Header.CLAIM)
                await drop_leftover(self._jetstream, start.agent, start.id, claim)
        return not later

    async def _fit(self, start: Start) -> None:
        """Keep params that are too large for one message apart from it; the tool's name stays."""
        encoded = start.params.encoded()
        if len(encoded) > largest_params(self._jetstream.transport.max_message):
            # Until its letter is gone, should it die at the last moment.
            seconds = 2 * LONGEST_UNENDED + max(0.0, (start.at or 0.0) - time.time())
            start.claim = await self._claims.keep(encoded, seconds)
            start.params = Body({"name": start.params.members().get("name")})

    async def _drop_leftover(self, start: Start) -> None:
        """Drop the params that were kept apart, unless this very start had got through, and its answer was lost."""
        await drop_leftover(self._jetstream, start.agent, start.id, start.claim)

    async def result(self, record: Record) -> Body:
        """The MCP result of a task that was completed.

        Raises:
            ClaimLost: it was too large for a record, and is no longer kept.
        """
        return await self._claims.redeem(record.claim) if record.claim else Body(record.result)

    async def read(self, agent: str, task_id: str) -> Record:
        """How a task stands.

        Raises:
            UnknownTask: there is none of this id, or its end is no longer kept.
            UnreadableRecord: what is on record of it is none of ours; the worker that has it next buries it.
        """
        return (await self._look(agent, task_id))[0]

    async def wait(
        self, agent: str, task_id: str, *, timeout: float | None = None, on_frame: OnFrame | None = None
    ) -> Record:
        """The record of a task once it has ended.

        Raises:
            UnknownTask: as `read`.
            DeadlineExceeded: it did not end within `timeout` seconds; it goes on.
        """
        try:
            async with asyncio.timeout(timeout), self.watch(agent, task_id, on_frame) as changes:
                async for record in changes:
                    if record.ended:
                        return record
        except TimeoutError:
            raise errors.DeadlineExceeded(
                "timeout: the task has not ended yet; it goes on",
                fix=f"`fabric task show {task_id}` tells whether it was begun, `fabric ps` whether a worker is there",
            ) from None
        raise AssertionError("a task is watched until it ends")

    @asynccontextmanager
    async def watch(
        self, agent: str, task_id: str, on_frame: OnFrame | None = None
    ) -> AsyncGenerator[AsyncGenerator[Record]]:
        """The records of a task as they change, from how it stands now to its end."""
        told: asyncio.Queue[Record] = asyncio.Queue()

        def hear(message: Message) -> None:
            kind = message.header(Header.FRAME)
            try:
                if kind is None:
                    told.put_nowait(Record.of(message.subject, message.body))
                elif on_frame is not None:
                    on_frame(kind, message.body)
            except (ValueError, TypeError, errors.UnreadableRecord):
                return  # not ours; the next look finds what there is

        async def changes() -> AsyncGenerator[Record]:
            record = await self.read(agent, task_id)
            yield record
            while not record.ended:
                seen = record.changed
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        record = await told.get()
                except TimeoutError:
                    record = await self.read(agent, task_id)
                if record.changed != seen or record.ended:
                    yield record

        subscription = await self._jetstream.transport.subscribe(subjects.told(agent, task_id), hear)
        stream = changes()
        try:
            yield stream
        finally:
            await stream.aclose()
            await subscription.close()

    async def cancel(self, agent: str, task_id: str, *, reason: str = "") -> Record:
        """End a task: it is never begun, or its handler is told; returns how it ended.

        A task that has ended already stays as it is. `reason`: why it was not let go on, for whoever waits for it.

        Raises:
            UnknownTask, UnreadableRecord: as `read`.
        """
        for _ in range(_LOOKS):
            record, place = await self._look(agent, task_id)
            if record.ended:
                return record
            parked = record.parked
            record.state, record.parked, record.reason = "cancelled", None, reason
            if not await self._write(record, place):
                continue  # it went on in between
            if parked is not None:
                await self._claims.let_go(parked["headers"])
            await self._forget(agent, task_id)
            await self._jetstream.transport.publish(Message(subjects.control(agent), Body({"task": task_id})))
            return record
        raise _restless(task_id)

    async def answer(self, agent: str, task_id: str, answers: Mapping[str, Any]) -> Record:
        """Give a task answers to what it asks; with the last one it goes on.

        Answers to what it does not ask, or asks no more, are passed over.

        Raises:
            UnknownTask: as `read`.
        """
        for _ in range(_LOOKS):
            record, place = await self._look(agent, task_id)
            parked = record.parked
            if not take_answers(record, answers) or parked is None:
                return record
            if not parked["requests"]:
                await self._resume(record, parked)
                record.state, record.parked = "queued", None
            if await self._write(record, place):
                return record
        raise _restless(task_id)

    async def _resume(self, record: Record, parked: Parked) -> None:
        """Put a parked task into the queue again."""
        if record.origin:  # the worker that parked it may not have taken off yet what led to it
            await self._jetstream.delete(TASKS, record.origin)
        message = resumed(record, parked)
        with suppress(SubjectTaken):
            await self._jetstream.store(message.subject, message.body, message.headers)

    async def _write(self, record: Record, place: int) -> bool:
        """Put `record` down in the place of the one it was read from; tell whether that was still the last."""
        record.changed = time.time()
        headers = {Header.EXPECTED: str(place), Header.TTL: f"{record.lasts}s"}
        try:
            await self._jetstream.store(subjects.record(record.agent, record.id), record.body(), headers)
        except WrongSequence:
            return False
        return True

    async def _ensure(self) -> None:
        for stream in (TASKS, RECORDS, LATER):
            await self._jetstream.ensure(stream)

    async def _look(self, agent: str, task_id: str) -> tuple[Record, int]:
        """The record of a task and its place; 0: none is written yet."""
        subjects.checked_token(task_id)
        await self._ensure()
        missed = 0
        for _ in range(_LOOKS):
            found = await self._jetstream.last(RECORDS, subjects.record(agent, task_id))
            record = Record.of(found.subject, found.body) if found else await self._queued(agent, task_id)
            if record is None:
                missed += 1
                if missed < 2:  # a worker may have ended in between what was still in the queue at the first look
                    continue
                raise errors.UnknownTask(f"agent {agent!r} has no task {task_id!r}")
            place = found.sequence if found else 0
            if record.overdue(time.time()):  # perhaps no worker ever comes: whoever looks writes it down
                record.state = "expired"
                if not await self._write(record, place):
                    continue
                await self._forget(agent, task_id)
            elif record.state == "dead" and await self._redriven(record):
                record.state = "queued"
            return record, place
        raise _restless(task_id)

    async def _redriven(self, record: Record) -> bool:
        """Whether a dead task waits to be tried again."""
        found = await self._jetstream.last(TASKS, subjects.task(record.agent, "*", record.id))
        return found is not None and found.sequence > record.origin and Header.REDRIVE in found.headers

    async def _queued(self, agent: str, task_id: str) -> Record | None:
        """The record of a task that no worker has written one for: it waits in the queue, or for its time."""
        waiting = await self._waiting(agent, task_id)
        if waiting is None:
            return None
        _, found = waiting
        record = record_of(found.headers, found.body)
        record.id, record.agent, record.queued, record.changed = task_id, agent, found.stored, found.stored
        record.priority = priority_of(found.headers.get(Header.CLASS) or found.subject.split(".")[3])
        return record

    async def _forget(self, agent: str, task_id: str) -> None:
        """Take a task out of the queue, wherever it waits."""
        while (waiting := await self._waiting(agent, task_id)) is not None:
            stream, found = waiting
            await self._jetstream.delete(stream, found.sequence)
            await self._claims.let_go(found.headers)

    async def _waiting(self, agent: str, task_id: str) -> tuple[Stream, StoredMessage] | None:
        """The message of a task that waits, and where."""
        return next(iter(await self._everywhere(agent, task_id)), None)

    async def _everywhere(self, agent: str, task_id: str) -> list[tuple[Stream, StoredMessage]]:
        """The messages of a task, wherever they wait; one that a schedule of this name brought is none."""
        places = (
            (TASKS, subjects.task(agent, "*", task_id)),
            (LATER, subjects.later(agent, "once", task_id)),
            (LATER, subjects.later(agent, "due", task_id)),
        )
        found = await asyncio.gather(*(self._jetstream.last(stream, subject) for stream, subject in places))
        return [
            (stream, message)
            for (stream, _), message in zip(places, found, strict=True)
            if message is not None and not subjects.is_repeated(message.headers.get(Header.SCHEDULER, ""))
        ]


def _restless(task_id: str) -> errors.FabricError:
    return errors.FabricError(f"task {task_id} changes all the time", fix="try once more")


def _check_same(start: Start, there: Record) -> None:
    """See that what a key names is what is started with it now.

    Raises:
        KeyReused: it is something else.
    """
    task, mine = f"task {start.id} of {subjects.who(start.agent)}", str(start.params.members().get("name", ""))
    if there.tool != mine:
        raise errors.KeyReused(
            f"the key {start.key!r} names {task}, which is of the tool {there.tool!r}, not of {mine!r}",
            fix="give the tasks of each tool keys of their own",
        )
    if None not in (there.digest, start.digest) and there.digest != start.digest:
        raise errors.KeyReused(
            f"the key {start.key!r} names {task}, which was started with other arguments",
            fix="give other work another key; with the arguments it was started with, this key joins that task",
        )


def _all_or_none(known: int, starts: Sequence[Start]) -> bool:
    """What a batch comes to of which so many are known already."""
    if known == len(starts):
        return False
    raise errors.InvalidParams(
        "some of these tasks were started before, so none was started now",
        fix="start tasks that may have been started before one by one: each joins its like",
    )
