"""Tasks, on the worker's side: pull → judge → claim → handle → write down → acknowledge.

Above: the worker. Below: JetStream and the handler that calls have too. A task that nobody repeats costs one write:
its end. A claim is written first where another attempt may be about: for a redelivery, and for a task with a key.

Each class is a lane of its own. A worker with free hands asks every lane for as much as it can begin; one without
keeps a few messages of each at hand, and takes them only if nobody with free hands asked (JetStream's prioritized
pulls). So what is critical waits for no queue, only for the first hand that is free.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from fabric_sdk.attempt import Attempt, Superseded
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Effects, Scope, Trace, current_effects, current_scope
from fabric_sdk.contracts.streams import RECORDS, TASK_ACK_WAIT, TASKS, due_lane, task_lane
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import PRIORITIES, Policy, Priority, Record, keyed_task_id, largest_params
from fabric_sdk.jetstream import Claims, Delivery, Pull, SubjectTaken
from fabric_sdk.patterns.task import number, record_of
from fabric_sdk.pipeline import Handler, Request
from fabric_sdk.routing.asking import unpark
from fabric_sdk.routing.tasks import Given, Turns, after_failure, judge
from fabric_sdk.transports.base import ConnectionEvent

log = logging.getLogger(__name__)

_TICK: Final = 0.25
_LOOK_SECONDS: Final = 1.0
ACK_WAIT_VARIABLE: Final = "FABRIC_TASK_ACK_WAIT"
"""Names `TASK_ACK_WAIT`, in seconds, for the lanes that this process is the first to need."""
_EXTENSIONS: Final = 3
"""How often the time for a task is extended before it would run out."""
_GIVE_BACK_SECONDS: Final = 1.0
"""How long a task waits at a worker without a free hand, before it is left to others."""
_QUEUE_FULL_SECONDS: Final = 5.0
_WITHOUT_SECONDS: Final = 10.0
"""Between two attempts to find JetStream."""
_CANCEL_SECONDS: Final = 2.0
_MOST_BYTES: Final = 4096
"""Of the words in which an attempt failed."""
_CLAIM_SECONDS: Final = 3600.0
"""For so much longer than its record, a large result is kept."""
_LONGEST_ACK_WAIT: Final = 3600
_CARRIED: Final = (Header.PRINCIPAL, Header.TRACEPARENT, Header.TRACESTATE, Header.KEEP, Header.EXPIRES, Header.CLAIM)


class _InHand:
    """One delivery at this worker: waiting for a hand, or being worked on as `task`."""

    def __init__(self, delivery: Delivery, priority: Priority, now: float) -> None:
        self.delivery = delivery
        self.priority: Priority = priority
        self.taken = now
        self.attempt: Attempt | None = None
        self.context: Context | None = None
        self.task: asyncio.Task[None] | None = None
        self.ended: errors.FabricError | None = None
        """Why it was ended from outside, if it was."""

    @property
    def id(self) -> str:
        return self.delivery.message.subject.rpartition(".")[2]

    def end(self, why: errors.FabricError) -> None:
        """End the handler from outside."""
        if self.ended is None and self.task is not None:
            self.ended = why
            if self.context is not None:
                self.context.cancelled = True
                self.task.cancel()


class TaskTaker:
    """Takes an agent's tasks off their queue, for one worker."""

    def __init__(
        self,
        fabric: Fabric,
        description: Description,
        instance: str,
        handler: Handler,
        *,
        concurrency: int = 64,
        policies: Mapping[str, Policy] | None = None,
    ) -> None:
        self.done = 0
        self.failed = 0
        self._fabric = fabric
        self._jetstream = fabric.jetstream
        self._claims = Claims(fabric.jetstream)
        self._description = description
        self._agent = description.name
        self._instance = instance
        self._handler = handler
        self._concurrency = concurrency
        self._ack_wait = _ack_wait()
        self._turns = Turns()
        self._waiting: dict[Priority, deque[_InHand]] = {priority: deque() for priority in PRIORITIES}
        self._running: set[_InHand] = set()
        self._policies = dict(policies or {})
        self._pulls: dict[Priority, Pull] = {}
        self._due: Pull | None = None
        self._stir = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._taking = False
        self._watershed: int | None = None
        """The queue's last place soon after this worker connected, once it is known. A server that crashed, and a
        consumer made anew, count deliveries from 1 again: of what was there before, the record says how it stands."""
        self._stop_listening = self._jetstream.transport.listen(self._connection_changed)
        self._ended = 0
        """Tasks that left a hand since the last tick."""
        self._ahead = 1
        """Messages of each class that are kept at hand while no hand is free: about those for the next 30 ms."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._living: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """Tasks being worked on."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tasks at this worker that wait for a hand."""
        return sum(map(len, self._waiting.values()))

    def open(self) -> None:
        """Begin to take tasks as soon as there is JetStream; a worker without it serves calls alone."""
        self._living = [asyncio.create_task(self._live())]

    async def stop_taking(self) -> None:
        """Ask for nothing more, and give back what waits."""
        self._taking = False
        for living in self._living:
            living.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        pulls = [*self._pulls.values(), *([self._due] if self._due else [])]
        await asyncio.gather(*(pull.close() for pull in pulls))
        giving = [asyncio.create_task(self._give_back(each)) for lane in self._waiting.values() for each in lane]
        for lane in self._waiting.values():
            lane.clear()
        await _end(giving, _CANCEL_SECONDS)
        if self._running:
            self._living = [asyncio.create_task(self._tick_on())]

    async def finished(self) -> None:
        """Wait until nothing is in hand."""
        await self._idle.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hurry(self) -> None:
        """End what is in hand; others will try it again."""
        for each in list(self._running):
            each.end(errors.WorkerLost("the worker was stopped before the attempt ended"))

    async def close(self) -> None:
        """Let go, once `stop_taking` and `finished` are through; what is unfinished others will try again."""
        self._stop_listening()
        await _end([*self._living, *self._tasks, *(each.task for each in self._running if each.task)], 0)

    def cancel(self, task_id: str) -> None:
        """End the task of this id, if it is in hand: its record says already that it was cancelled."""
        for lane in self._waiting.values():
            for each in [each for each in lane if each.id == task_id]:
                lane.remove(each)
                self._spawn(each.delivery.ack())
        for each in list(self._running):
            if each.id == task_id:
                each.end(errors.TaskCancelled())

    # taking

    async def _live(self) -> None:
        told = False
        while not self._taking:
            try:
                await self._open()
            except errors.FabricError as without:
                if not told:
                    log.warning("%s takes no tasks for now: %s", self._agent, without)
                    told = True
                await asyncio.sleep(_WITHOUT_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_on())
            group.create_task(self._tick_on())
            group.create_task(self._look_on())

    async def _open(self) -> None:
        await self._jetstream.ensure(RECORDS)
        for priority in PRIORITIES:
            if priority not in self._pulls:
                lane = task_lane(self._agent, priority, self._ack_wait)
                pull = Pull(self._jetstream, lane, partial(self._receive, priority))
                await pull.open()
                self._pulls[priority] = pull
        due = Pull(self._jetstream, due_lane(self._agent, self._ack_wait), self._receive_due)
        await due.open()
        self._due = due
        self._taking = True
        self._stir.set()

    async def _ask_on(self) -> None:
        """Keep asking the lanes for what there are hands for."""
        while True:
            await self._stir.wait()
            self._stir.clear()
            free = self._concurrency - len(self._running)
            for priority, pull in self._pulls.items():
                room = free or self._ahead
                wanted = room - len(self._waiting[priority]) - pull.outstanding
                if wanted > 0 and (wanted >= room // 2 or not pull.outstanding):
                    await pull.ask(wanted, last=free == 0)
            if self._due is not None and not self._due.outstanding:
                await self._due.ask(self._concurrency)

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._watershed = None

    def _receive(self, priority: Priority, delivery: Delivery) -> None:
        self._waiting[priority].append(_InHand(delivery, priority, time.monotonic()))
        self._idle.clear()
        self._begin()
        self._stir.set()

    def _begin(self) -> None:
        """Give what waits to the hands that are free."""
        while len(self._running) < self._concurrency:
            priority = self._turns.next({each: len(lane) for each, lane in self._waiting.items()})
            if priority is None:
                return
            each = self._waiting[priority].popleft()
            self._running.add(each)
            each.task = asyncio.create_task(self._run(each))

    async def _run(self, each: _InHand) -> None:
        try:
            if (attempt := await self._claim(each)) is not None:
                each.attempt = attempt
                await self._settle(attempt, await self._handle(each, attempt))
        except Superseded:
            log.info("task %s is another attempt's by now", each.id)
        except errors.FabricError as failure:  # whoever gets it next sees what is on record
            log.warning("task %s could not be settled: %s", each.id, failure)
            await each.delivery.nak(_QUEUE_FULL_SECONDS)
        except asyncio.CancelledError:
            pass  # its end was asked for before its handler began, or while it was written; it is delivered again
        except Exception:
            log.exception("task %s could not be settled", each.id)
        finally:
            self._running.discard(each)
            self._ended += 1
            self._ahead = max(self._ahead, 1)
            self._begin()
            self._stir.set()
            if not self._running and not self.waiting:
                self._idle.set()

    # judge → claim

    async def _claim(self, each: _InHand) -> Attempt | None:
        """This attempt, if there is to be one; else its message is settled here."""
        delivery = each.delivery
        headers = delivery.message.headers or {}
        record = record_of(headers, delivery.message.body)
        record.id, record.agent, record.priority = each.id, self._agent, each.priority
        record.queued = delivery.stored
        policy = self._policy(record.tool)
        given = _given(delivery)
        alone = delivery.attempt == 1 and not given.redriven and not given.round
        known = self._watershed is not None and not self._pulls[each.priority].lost
        fresh = alone and known and delivery.sequence > (self._watershed or 0)
        # Another message may bring a task with a key, and whoever looks at one that expires may write its end.
        contested = Header.KEY in headers or given.expires is not None
        found, written = None, 0
        while True:
            if not fresh:
                kept = await self._jetstream.last(RECORDS, subjects.record(self._agent, each.id))
                found, written = (Record.of(kept.body), kept.sequence) if kept else (None, 0)
            verdict = judge(found, given, policy, time.time())
            if verdict == "look":
                assert found is not None
                verdict = "drop" if await self._jetstream.at(TASKS, found.origin) else "run"
            if verdict == "leave":
                return None
            if verdict == "drop":
                await delivery.ack()
                return None
            attempt = Attempt(self._jetstream, delivery, found or record, policy)
            attempt.written = written
            try:
                if verdict == "expire":
                    attempt.record.state = "expired"
                    await attempt.write()
                    await delivery.ack()
                    return None
                self._enter(attempt, given)
                if verdict == "bury":
                    await self._bury(attempt)
                    return None
                if not alone or contested or written:
                    await attempt.write()
            except Superseded:
                alone = fresh = False  # somebody was quicker: look again
                continue
            return attempt

    def _enter(self, attempt: Attempt, given: Given) -> None:
        """Make the record this attempt's own."""
        record = attempt.record
        if record.ended or record.origin != given.origin:
            record.state, record.returned, record.attempt = "queued", 0, 0
        number_now = max(1, given.delivered - record.returned)  # who makes a consumer anew makes it count anew
        self._note_lost(attempt, number_now)
        record.state, record.origin, record.instance = "running", given.origin, self._instance
        record.attempt, record.parked = number_now, None
        record.given = max(record.given + 1, given.delivered)

    def _note_lost(self, attempt: Attempt, number_now: int) -> None:
        """Note how the attempts before this one ended that could not do so themselves."""
        record = attempt.record
        told = record.attempt if record.state == "queued" else record.attempt - 1
        for before in range(max(told, 0) + 1, number_now):
            record.instance = record.instance if record.attempt == before else ""
            record.attempt = before
            attempt.failed("its worker was lost", errors.WorkerLost.code)

    def _policy(self, tool: str) -> Policy:
        if tool not in self._policies:
            self._policies[tool] = Policy.of(self._description.tool(tool))
        return self._policies[tool]

    # handle

    async def _handle(self, each: _InHand, attempt: Attempt) -> bytes | errors.FabricError:
        """Run the handler: its result, encoded, or why there is none."""
        if each.ended is not None:
            return each.ended
        message = each.delivery.message
        trace = Trace.of(message.header(Header.TRACEPARENT), message.header(Header.TRACESTATE))
        context = Context(
            Scope(attempt.deadline, message.header(Header.PRINCIPAL), trace),
            agent=self._agent,
            instance=self._instance,
            key=message.header(Header.KEY) or attempt.id,
            fabric=self._fabric,
            reply=subjects.told(self._agent, attempt.id),
            emit=attempt.emit,
            task=attempt,
        )
        current_scope.set(context.scope)
        current_effects.set(Effects(attempt.id))
        each.context = context
        try:
            request = Request("tools/call", await self._params(message))
            return (await self._handler(context, request)).encoded()
        except asyncio.CancelledError:
            return each.ended or errors.HandlerFailed("the handler cancelled itself")
        except (TypeError, ValueError) as unfit:
            return errors.UnencodableResult(str(unfit))
        except errors.FabricError as failure:
            return failure
        except GeneratorExit:
            raise  # the loop is gone
        except BaseException as failure:  # whatever it is, it ends this attempt and nothing else
            log.exception("task %s failed", attempt.id)
            return errors.HandlerFailed(f"{type(failure).__name__}: {failure}")
        finally:
            each.context = None  # nothing is to be ended from outside any more

    async def _params(self, message: Message) -> Body:
        """What the handler is asked: in the message, or too large for it and in a claim beside it."""
        if (claim := message.header(Header.CLAIM)) is None:
            return message.body
        return Body({**(await self._claims.redeem(claim)).members(), **message.body.members()})

    # write down → acknowledge

    async def _settle(self, attempt: Attempt, outcome: bytes | errors.FabricError) -> None:
        record, delivery = attempt.record, attempt.delivery
        if isinstance(outcome, bytes):
            attempt.answered(outcome)
            try:
                await self._fit(record)
                await attempt.write()
            except errors.MessageTooLarge as large:
                record.result = None
                unpark(record)
                await self._failed(attempt, errors.UnencodableResult(f"the result is too large: {large}"))
                return
            self.done += 1
            await delivery.ack()
            if record.ended and (claim := delivery.message.header(Header.CLAIM)) is not None:
                await self._claims.drop(claim)
        elif isinstance(outcome, errors.TaskCancelled):
            await delivery.ack()
        elif isinstance(outcome, errors.WorkerLost):
            await self._return(attempt)
        elif isinstance(outcome, Superseded):
            raise outcome
        else:
            await self._failed(attempt, outcome)

    async def _fit(self, record: Record) -> None:
        """Keep a result that is too large for a record apart from it."""
        most = largest_params(self._jetstream.transport.max_message)
        if isinstance(record.result, bytes) and len(record.result) > most:
            record.claim, record.result = await self._claims.keep(record.result, record.keep + _CLAIM_SECONDS), None

    async def _failed(self, attempt: Attempt, failure: errors.FabricError) -> None:
        """Try again later, or give the task up, as its policy says."""
        self.failed += 1
        attempt.failed(_sendable(str(failure)), failure.code)
        wait = after_failure(failure, attempt.attempt, attempt.policy)
        if wait is None:
            await self._bury(attempt)
            return
        attempt.record.state = "queued"
        await attempt.write()
        await attempt.delivery.nak(wait)

    async def _bury(self, attempt: Attempt) -> None:
        await attempt.bury()
        last = attempt.record.errors[-1]["error"] if attempt.record.errors else ""
        log.warning("task %s of %s is dead: %s", attempt.id, self._agent, last)
        await attempt.delivery.terminate(last)

    async def _return(self, attempt: Attempt) -> None:
        """Hand the task back: what was begun here counts as no attempt."""
        attempt.record.state = "queued"
        attempt.record.returned += 1
        await attempt.write()
        await attempt.delivery.nak()

    async def _give_back(self, each: _InHand) -> None:
        """Leave a task that was never begun here to others."""
        with suppress(errors.FabricError):
            subject = subjects.record(self._agent, each.id)
            kept = await self._jetstream.last(RECORDS, subject)
            message = each.delivery.message
            record = Record.of(kept.body) if kept else record_of(message.headers, message.body)
            verdict = judge(record if kept else None, _given(each.delivery), self._policy(record.tool), time.time())
            if verdict == "leave":
                return
            if verdict == "run" and not record.ended:
                record.id, record.agent, record.priority = each.id, self._agent, each.priority
                attempt = Attempt(self._jetstream, each.delivery, record, Policy())
                attempt.written = kept.sequence if kept else 0
                self._note_lost(attempt, each.delivery.attempt - record.returned)
                record.origin, record.queued = each.delivery.sequence, each.delivery.stored
                await self._return(attempt)
                return
        await each.delivery.nak()

    # beside it

    async def _tick_on(self) -> None:
        """End what takes too long, keep what is in hand, write down how far it is."""
        look_at = extend_at = 0.0
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            for each in list(self._running):
                self._end_overdue(each, now)
            if self._ahead:  # with none at hand, a class would lose its turn to those below it
                self._ahead, self._ended = min(self._concurrency, 1 + self._ended // 8), 0
            if now >= extend_at:
                extend_at = now + min(pull.ack_wait for pull in self._pulls.values()) / _EXTENSIONS
                await asyncio.gather(*(each.delivery.extend() for each in self._running))
            if now < look_at:
                continue
            look_at = now + _LOOK_SECONDS
            for each in list(self._running):
                attempt = each.attempt
                if attempt is not None and each.context is not None and attempt.behind:
                    self._spawn(self._write_progress(each, attempt))
            for priority, lane in self._waiting.items():
                while lane and now - lane[0].taken > _GIVE_BACK_SECONDS:
                    self._ahead = 0
                    self._spawn(self._give_back(self._waiting[priority].popleft()))

    async def _look_on(self) -> None:
        """Notice a silent server; apart from the rest, since it takes its time to ask one that is away."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._watershed is None or any(pull.lost for pull in self._pulls.values()):
                with suppress(errors.FabricError):
                    there = await self._jetstream.request(f"STREAM.INFO.{TASKS.name}")
                    self._watershed = there["state"]["last_seq"]
            await asyncio.gather(*(pull.look() for pull in (*self._pulls.values(), self._due) if pull))
            self._stir.set()

    def _end_overdue(self, each: _InHand, now: float) -> None:
        attempt = each.attempt
        if attempt is None or each.context is None:
            return
        if attempt.deadline <= time.time():
            each.end(errors.DeadlineExceeded(f"the attempt took longer than {attempt.policy.timeout:g} s"))
        elif attempt.policy.silence is not None and now - attempt.heard > attempt.policy.silence:
            each.end(errors.DeadlineExceeded(f"the attempt was silent for {attempt.policy.silence:g} s"))

    async def _write_progress(self, each: _InHand, attempt: Attempt) -> None:
        try:
            await attempt.write()
        except Superseded as lost:
            each.end(lost)
        except errors.FabricError as failure:  # the next write says it too
            log.debug("the progress of task %s could not be written: %s", attempt.id, failure)

    def _spawn(self, doing: Any) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # what has become due

    def _receive_due(self, delivery: Delivery) -> None:
        self._spawn(self._start_due(delivery))
        self._stir.set()

    async def _start_due(self, delivery: Delivery) -> None:
        """Put what has become due into the queue, under an id that makes a repetition harmless."""
        name = delivery.message.subject.rpartition(".")[2]
        headers = delivery.message.headers or {}
        carried = {header: headers[header] for header in (*_CARRIED, Header.KEY) if header in headers}
        carried.setdefault(Header.KEY, name)  # its own id; what becomes due twice is then known for one task
        priority = headers.get(Header.CLASS, "normal")
        task_id = name
        if ".every." in headers.get(Header.SCHEDULER, ""):
            carried[Header.KEY] = f"{name}@{delivery.sequence}"
            task_id = keyed_task_id(self._agent, carried[Header.KEY], None)
        carried[Header.MESSAGE_ID] = task_id
        try:
            await self._jetstream.store(subjects.task(self._agent, priority, task_id), delivery.message.body, carried)
        except SubjectTaken:
            pass
        except errors.FabricError as refused:
            log.warning("what is due cannot be started yet: %s", refused)
            await delivery.nak(_QUEUE_FULL_SECONDS)
            return
        await delivery.ack()


def _given(delivery: Delivery) -> Given:
    headers = delivery.message.headers or {}
    expires, answered = number(headers.get(Header.EXPIRES)), int(number(headers.get(Header.ROUND)) or 0)
    return Given(delivery.sequence, delivery.attempt, Header.REDRIVE in headers, expires, answered)


def _sendable(text: str) -> str:
    return text.encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")


async def _end(tasks: Sequence[asyncio.Task[Any]], grace: float) -> None:
    """Cancel what is not done within `grace` seconds; what refuses to be cancelled goes with the process."""
    if tasks:
        await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)


def _ack_wait() -> float:
    text = os.environ.get(ACK_WAIT_VARIABLE, str(TASK_ACK_WAIT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _LONGEST_ACK_WAIT:
        raise errors.ConfigurationError(
            f"{ACK_WAIT_VARIABLE} is {text!r}", fix=f"write a number of seconds from 1 to {_LONGEST_ACK_WAIT}"
        )
    return seconds
