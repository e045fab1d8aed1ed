"""One task, on the worker's side: look → decide → claim → handle → write down → acknowledge.

Above: the taker, which has it in hand. Below: the attempt, JetStream, and the handler that calls have too. A task that
nobody repeats costs one write: its end. A claim is written first where another attempt may be about: for a redelivery,
and for a task with a key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import orjson
from opentelemetry.trace import Span, SpanKind

from fabric_sdk import tracing
from fabric_sdk.attempt import Attempt, Superseded, until_stored
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.asking import Asked, Waiting
from fabric_sdk.contracts.conventions import EXECUTE_TOOL, NATS, Attribute
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Effects, Scope, Trace, current_asker, current_effects, current_scope
from fabric_sdk.contracts.streams import RECORDS, TASKS
from fabric_sdk.contracts.subjects import Header, number
from fabric_sdk.contracts.task import Policy, Priority, Record, largest_params
from fabric_sdk.jetstream import Claims, Delivery
from fabric_sdk.patterns.leftover import drop_leftover
from fabric_sdk.patterns.start import record_of
from fabric_sdk.pipeline import Handler, Request
from fabric_sdk.routing.asking import unpark
from fabric_sdk.routing.tasks import Decision, Given, Seen, after_failure, decide, judge

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 5.0
"""After which a task that could not be settled is given to somebody again."""
_LOOKS: Final = 20
"""At a record that somebody else writes each time before this worker does."""
_MOST_BYTES: Final = 4096
"""Of the words in which an attempt failed, as JSON has them."""
_CLAIM_SECONDS: Final = 3600.0
"""For so much longer than its record, a large result is kept."""


class InHand:
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
        self.begun = False
        """Whether its handler was: whatever that does may be done since."""
        self.trace = Trace.of(delivery.message.header(Header.TRACEPARENT), delivery.message.header(Header.TRACESTATE))
        self.span: Span | None = None
        """Of this attempt, if its trace is sampled."""

    @property
    def agent(self) -> str:
        """Whose it is: the agent's, or a capability's that others may have too."""
        return subjects.task_of(self.delivery.message.subject)[0]

    @property
    def id(self) -> str:
        return subjects.task_of(self.delivery.message.subject)[1]

    def end(self, why: errors.FabricError) -> None:
        """End the handler from outside."""
        if self.ended is None and self.task is not None:
            self.ended = why
            if self.context is not None:
                self.context.cancelled = True
                self.task.cancel()


class _Parking(BaseException):
    """Ends a handler that asks something: it is begun anew with the answer. Nothing for a handler to catch."""

    def __init__(self, asked: Asked) -> None:
        super().__init__("the task waits for an answer")
        self.asked = asked


def _parkings(raised: BaseException) -> list[_Parking]:
    if isinstance(raised, _Parking):
        return [raised]
    inner: tuple[BaseException, ...] = getattr(raised, "exceptions", ())
    return [parking for each in inner for parking in _parkings(each)]


async def _park(context: Context, key: str, request: dict[str, Any]) -> Any:
    raise _Parking(Asked({key: request}, Waiting(answers=dict(context.answers)).state()))


class Doer:
    """Does an agent's tasks, for one worker: each from its delivery to its acknowledgement."""

    def __init__(
        self,
        fabric: Fabric,
        description: Description,
        instance: str,
        handler: Handler,
        policies: Mapping[str, Policy],
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
        self._policies = dict(policies)

    async def do(self, each: InHand, *, known: bool) -> None:
        """Do one task; `known`: what its delivery says of how often it was given is to be believed."""
        if each.trace is None or not each.trace.sampled:
            await self._do(each, known=known)
            return
        about = {Attribute.SYSTEM: NATS, Attribute.AGENT: self._agent, Attribute.INSTANCE: self._instance}
        about |= {Attribute.DESTINATION: f"fab.task.{self._agent}", Attribute.KIND: "process"}
        about |= {Attribute.DOING: "process", Attribute.MESSAGE: each.id}
        # Below its cause, so that a trace is whole; and linked to it, since it may have ended long before.
        each.span = tracing.begin("process", SpanKind.CONSUMER, each.trace, about, linked=True)
        tracing.enter(each.span)
        each.trace = tracing.trace_of(each.span, each.trace)
        try:
            await self._do(each, known=known)
        finally:
            each.span.end()

    async def _do(self, each: InHand, *, known: bool) -> None:
        try:
            if (attempt := await self._claim(each, known)) is not None:
                each.attempt = attempt
                await self._settle(each, attempt, await self._handle(each, attempt))
        except Superseded:
            log.info("task %s is another attempt's by now", each.id)
        except errors.FabricError as failure:  # whoever gets it next sees what is on record
            log.warning("task %s could not be settled: %s", each.id, failure)
            await each.delivery.nak(_AGAIN_SECONDS)
        except asyncio.CancelledError:
            pass  # its end was asked for before its handler began, or while it was written; it is delivered again
        except Exception:
            log.exception("task %s could not be settled", each.id)

    # look → decide → claim

    async def _claim(self, each: InHand, known: bool) -> Attempt | None:
        """This attempt, if there is to be one; else its message is settled here."""
        message = each.delivery.message
        record = record_of(message.headers, message.body)
        record.id, record.agent, record.priority = each.id, each.agent, each.priority
        record.queued = each.delivery.stored
        policy = self._policy(record.tool, message)
        given = _given(each.delivery)
        seen = Seen() if known and given.alone else None
        for _ in range(_LOOKS):
            seen = seen or await self._look(each)
            decision = decide(seen, given, policy, time.time())
            if decision == "look":
                assert seen.record is not None
                seen = replace(seen, led=await self._jetstream.at(TASKS, seen.record.origin) is not None)
                decision = decide(seen, given, policy, time.time())
            attempt = Attempt(self._jetstream, each.delivery, seen.record or record, policy)
            attempt.written, attempt.span = seen.place, each.span
            try:
                return attempt if await self._begin(attempt, given, decision, seen.unreadable) else None
            except Superseded:  # somebody was quicker: look again
                given, seen = replace(given, contested=True), None
        raise errors.FabricError(f"its record changes all the time; it was looked at {_LOOKS} times")

    async def _look(self, each: InHand) -> Seen:
        kept = await self._jetstream.last(RECORDS, subjects.record(each.agent, each.id))
        if kept is None:
            return Seen()
        try:
            return Seen(Record.of(kept.subject, kept.body), kept.sequence)
        except errors.UnreadableRecord as foreign:
            return Seen(place=kept.sequence, unreadable=foreign)

    async def _begin(
        self, attempt: Attempt, given: Given, decision: Decision, unreadable: errors.UnreadableRecord | None
    ) -> bool:
        """Do as was decided; tell whether the handler is to run.

        Raises:
            Superseded: somebody else has written the record since it was seen.
        """
        record, delivery = attempt.record, attempt.delivery
        if decision == "leave":
            return False
        if decision == "drop":
            settled, claim = (TASKS, delivery.sequence), delivery.message.header(Header.CLAIM)
            await drop_leftover(self._jetstream, record.agent, record.id, claim, settled=settled)
            await delivery.ack()
            return False
        if decision == "expire":
            record.state = "expired"
            await attempt.write()
            await self._let_go(delivery)
            return False
        self._enter(attempt, given)
        _tell_of(attempt)
        if decision == "bury":
            if unreadable is not None:
                attempt.failed(_sendable(str(unreadable)), unreadable.code)
            else:
                record.attempt -= 1  # the one that there is not to be
            await self._bury(attempt, unreadable)
            return False
        if decision == "claim":
            await attempt.write()
        return True

    def _enter(self, attempt: Attempt, given: Given) -> None:
        """Make the record this attempt's own."""
        record = attempt.record
        _begin_anew(record, given.origin)
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
            attempt.failed("its worker was lost; whether it finished is unknown", errors.WorkerLost.code)

    def _policy(self, tool: str, message: Message) -> Policy:
        if tool not in self._policies:
            self._policies[tool] = Policy.of(self._description.tool(tool))
        policy = self._policies[tool]
        return policy if message.header(Header.ONCE) is None else replace(policy, attempts=1)

    # handle

    async def _handle(self, each: InHand, attempt: Attempt) -> bytes | errors.FabricError:
        """Run the handler: its result, encoded, or why there is none."""
        if each.ended is not None:
            return each.ended
        message = each.delivery.message
        context = Context(
            Scope(attempt.deadline, message.header(Header.PRINCIPAL), each.trace),
            agent=self._agent,
            instance=self._instance,
            key=message.header(Header.KEY) or attempt.id,
            fabric=self._fabric,
            reply=subjects.told(each.agent, attempt.id),
            emit=attempt.emit,
            ask=_park,
            task=attempt,
        )
        current_scope.set(context.scope)
        current_asker.set(context)
        current_effects.set(Effects(attempt.id))
        each.context, each.begun = context, True
        try:
            request = Request("tools/call", await self._params(message))
            result = await self._handler(context, request)
        except asyncio.CancelledError:
            return each.ended or errors.HandlerFailed("the handler cancelled itself")
        except (_Parking, BaseExceptionGroup) as several:
            parking = next(iter(_parkings(several)), None)
            if parking is None:
                return errors.HandlerRaised.of(several)
            result = parking.asked.result()
        except errors.FabricError as failure:
            return failure
        except BaseException as failure:  # whatever it is, it ends this attempt and nothing else
            if isinstance(failure, GeneratorExit) and _is_closed(each.task):
                raise
            return errors.HandlerRaised.of(failure)
        finally:
            each.context = None  # nothing is to be ended from outside any more
        try:
            return result.encoded()
        except errors.FabricError as failure:
            return failure
        except (TypeError, ValueError) as unfit:
            unencodable = errors.UnencodableResult(f"the result has no JSON form: {unfit}")
            unencodable.__cause__ = unfit
            return unencodable

    async def _params(self, message: Message) -> Body:
        """What the handler is asked: in the message, or too large for it and in a claim beside it."""
        if (claim := message.header(Header.CLAIM)) is None:
            return message.body
        return Body({**(await self._claims.redeem(claim)).members(), **message.body.members()})

    # write down → acknowledge

    async def _settle(self, each: InHand, attempt: Attempt, outcome: bytes | errors.FabricError) -> None:
        record, delivery = attempt.record, attempt.delivery
        if isinstance(outcome, bytes):
            attempt.answered(outcome)
            if attempt.span is not None:
                tracing.answered(attempt.span, Body(encoded=outcome))
            try:
                await self._fit(record)
                await attempt.write()
            except errors.MessageTooLarge as large:
                record.result = None
                unpark(record)
                await self._failed(attempt, errors.UnencodableResult(f"the result is too large: {large}"))
                return
            self.done += 1
            await (self._let_go(delivery) if record.ended else delivery.ack())
        elif outcome is each.ended and isinstance(outcome, errors.TaskCancelled):
            await delivery.ack()
        elif outcome is each.ended and isinstance(outcome, errors.WorkerLost) and not _was_the_only_one(each):
            await self._return(attempt)
        elif isinstance(outcome, Superseded):
            raise outcome
        else:
            await self._failed(attempt, outcome)

    async def _let_go(self, delivery: Delivery) -> None:
        """Take the task off the queue; what its message speaks of goes first, or a crash in between would leave it."""
        await self._claims.let_go(delivery.message.headers)
        await delivery.ack()

    async def _fit(self, record: Record) -> None:
        """Keep a result that is too large for a record apart from it."""
        most = largest_params(self._jetstream.transport.max_message)
        if isinstance(record.result, bytes) and len(record.body().encoded()) > most:
            keep = partial(self._claims.keep, record.result, record.keep + _CLAIM_SECONDS)
            record.claim, record.result = await until_stored(keep), None

    async def _failed(self, attempt: Attempt, failure: errors.FabricError) -> None:
        """Try again later, or give the task up, as its policy says."""
        self.failed += 1
        attempt.failed(_sendable(str(failure)), failure.code)
        wait = after_failure(failure, attempt.attempt, attempt.policy)
        if wait is None:
            await self._bury(attempt, failure)
            return
        about = (attempt.attempt, attempt.policy.attempts, attempt.record.tool, self._agent, attempt.id)
        log.warning(
            "attempt %d of %d at %s of %s failed, task %s is tried again in %g s",
            *about,
            wait,
            exc_info=_raised(failure),
        )
        attempt.record.state = "queued"
        if attempt.span is not None:
            tracing.failed(attempt.span, failure)
            attempt.span.add_event("retry", {Attribute.WAIT: wait})
        await attempt.write()
        await attempt.delivery.nak(wait)

    async def _bury(self, attempt: Attempt, failure: errors.FabricError | None = None) -> None:
        if attempt.span is not None:
            tracing.failed(attempt.span, failure or errors.WorkerLost())
            attempt.span.add_event("dead letter")
        await attempt.bury()
        record = attempt.record
        last = record.errors[-1]["error"] if record.errors else ""
        about = (record.tool, self._agent, attempt.id, last)
        log.error("%s of %s failed for good, task %s is dead: %s", *about, exc_info=failure and _raised(failure))
        await attempt.delivery.terminate(last)

    async def _return(self, attempt: Attempt) -> None:
        """Hand the task back: what was begun here counts as no attempt."""
        attempt.record.state = "queued"
        attempt.record.returned += 1
        await attempt.write()
        await attempt.delivery.nak()

    async def give_back(self, each: InHand) -> None:
        """Leave a task that was never begun here to others."""
        with suppress(errors.FabricError):
            subject = subjects.record(each.agent, each.id)
            kept = await self._jetstream.last(RECORDS, subject)
            message = each.delivery.message
            record = Record.of(kept.subject, kept.body) if kept else record_of(message.headers, message.body)
            verdict = judge(
                record if kept else None,
                _given(each.delivery),
                self._policy(record.tool, each.delivery.message),
                time.time(),
            )
            if verdict == "leave":
                return
            if verdict == "run":
                _begin_anew(record, each.delivery.sequence)
                record.id, record.agent, record.priority = each.id, each.agent, each.priority
                attempt = Attempt(self._jetstream, each.delivery, record, Policy())
                attempt.written = kept.sequence if kept else 0
                self._note_lost(attempt, each.delivery.attempt - record.returned)
                record.origin, record.queued = each.delivery.sequence, each.delivery.stored
                await self._return(attempt)
                return
        await each.delivery.nak()


def _tell_of(attempt: Attempt) -> None:
    """Note on its span which attempt at what it is."""
    record, span = attempt.record, attempt.span
    if span is not None:
        about: dict[str, str | int] = {Attribute.OPERATION: EXECUTE_TOOL, Attribute.TOOL: record.tool}
        span.set_attributes({**about, Attribute.ATTEMPT: record.before + record.attempt})
        span.update_name(f"process {record.tool}")


def _begin_anew(record: Record, origin: int) -> None:
    """Count from the start again, where another message than before brings this task: redriven, or answered."""
    if record.ended or record.origin != origin:
        record.before += record.attempt
        record.state, record.returned, record.attempt = "queued", 0, 0


def _given(delivery: Delivery) -> Given:
    headers = delivery.message.headers or {}
    expires, answered = number(headers.get(Header.EXPIRES)), int(number(headers.get(Header.ROUND)) or 0)
    # Another message may bring a task with a key, and whoever looks at one that expires may write its end.
    contested = Header.KEY in headers or expires is not None
    return Given(delivery.sequence, delivery.attempt, Header.REDRIVE in headers, expires, answered, contested)


def _was_the_only_one(each: InHand) -> bool:
    """Whether this attempt was begun at what is tried once, so that handing it back would do it again."""
    return each.begun and each.delivery.message.header(Header.ONCE) is not None


def _raised(failure: errors.FabricError) -> BaseException:
    """What the handler raised, with its traceback."""
    return failure.__cause__ or failure if isinstance(failure, errors.HandlerRaised) else failure


def _is_closed(task: asyncio.Task[None] | None) -> bool:
    """Whether a coroutine of this task ends since its loop is gone, and nobody can be told."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


def _sendable(text: str) -> str:
    text = text.encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")
    while len(orjson.dumps(text)) > _MOST_BYTES:  # much of it is written with more than one character
        text = text[: len(text) // 2]
    return text
