"""Calls, as they come to a worker: receive → open → admit → handle → reply.

Above: the worker. Below: `suspending`, the handler that tasks and streams have too, a transport. What is known of a
call dies with its worker, and the caller notices (`patterns.call`). Deadlines and signs of life cost one look at the
calls in hand every tenth of a second, not a timer for each call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context as ContextVars
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.trace import Span, SpanKind

from fabric_sdk import tracing
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.asking import RESUME
from fabric_sdk.contracts.conventions import NATS, Attribute, named, title
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Scope, Trace, current_asker, current_scope, roles_in
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.patterns.call import ALIVE_INTERVAL
from fabric_sdk.pipeline import Handler, Request
from fabric_sdk.suspending import Suspended, Suspensions
from fabric_sdk.transports.base import Transport

log = logging.getLogger(__name__)

_TICK: Final = 0.1
"""Seconds between two looks at the calls in hand; a deadline is kept to within this."""
_NO_ROLES: Final[frozenset[str]] = frozenset()
_DEFAULT_DEADLINE: Final = 60.0
_MOST_EARLY: Final = 256
"""Cancellations that are remembered: they come another way than the calls, and may overtake them."""
_NOBODY: Final = Message("")
"""In place of a call that was answered, while its handler waits for the next."""


@dataclass(slots=True, eq=False)
class _Job:
    """One call in hand: waiting for its turn, or running as `task`."""

    message: Message
    request: Request
    context: Context
    taken: float
    """When it came, by `time.monotonic`: uvloop's own clock knows whole milliseconds alone."""
    key: str = ""
    """Its key among the calls in hand: the reply subject, where no other call in hand has the same."""
    task: asyncio.Task[None] | None = None
    begun: bool = False
    """Whether the task has taken its first step; one that is cancelled before that never runs at all."""
    ended: errors.FabricError | None = None
    """Why it was ended from outside, if it was."""
    suspended: Suspended | None = None
    """What is known of it once its handler has asked something."""
    span: Span | None = None
    """Of its handling, if its trace is sampled."""


@dataclass(slots=True)
class _Hands:
    """The calls in hand, by reply subject (or a number, for those that want no reply)."""

    jobs: dict[str, _Job] = field(default_factory=dict[str, _Job])
    running: int = 0
    queue: deque[_Job] = field(default_factory=deque[_Job])


class CallTaker:
    """Takes an agent's calls off the wire, and those of its capabilities, for one worker."""

    def __init__(
        self, transport: Transport, instance: str, handler: Handler, *, concurrency: int = 64, queue: int = 1024
    ) -> None:
        self.served = 0
        self.failed = 0
        self.spent = 0.0
        """Seconds from taking a call to answering it, summed over all calls."""
        self.last_error = ""
        self._transport = transport
        self._instance = instance
        self._handler = handler
        self._concurrency = concurrency
        self._queue = queue
        self._hands = _Hands()
        self._early: dict[str, None] = {}
        """Reply subjects of calls that were cancelled before they came, if they are for this instance at all."""
        self._suspensions = Suspensions(instance)
        self._idle = asyncio.Event()
        self._idle.set()
        self._methods: dict[str, str] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._alive_due = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        # Of the worker: it is one that logs tell of.
        return f"<Worker {self._instance} running={self.running} waiting={self.waiting} served={self.served}>"

    @property
    def running(self) -> int:
        """Calls being handled."""
        return self._hands.running

    @property
    def waiting(self) -> int:
        """Calls waiting for their turn."""
        return len(self._hands.queue)

    def open(self, fabric: Fabric, agent: str, outside: ContextVars) -> None:
        """Be ready for calls.

        Args:
            fabric: what handlers reach others by.
            agent: whose calls they are.
            outside: what a call sees of the context: nothing of the one that had the hand before.
        """
        self._loop = asyncio.get_running_loop()
        self._fabric = fabric
        self._agent = agent
        self._about = {
            Attribute.AGENT: agent,
            Attribute.INSTANCE: self._instance,
            Attribute.SYSTEM: NATS,
            Attribute.DESTINATION: f"fab.call.{agent}",
            Attribute.KIND: "process",
        }
        self._outside = outside

    async def finished(self) -> None:
        """Wait until nothing is in hand."""
        while not (self._suspensions.none.is_set() and self._idle.is_set()):  # a handler may ask, go on, and ask again
            await self._suspensions.none.wait()
            await self._idle.wait()

    def hurry(self) -> None:
        """End what is in hand, each call answered with `WorkerLost`."""
        self._suspensions.give_up(errors.WorkerLost("the worker was stopped before an answer came"))
        for job in list(self._hands.jobs.values()):
            self._end(job, errors.WorkerLost("the worker was stopped before the call ended"))

    async def close(self) -> None:
        """Let go, once `finished` is through, or nobody waits for it any longer."""
        if self._ticker is not None:
            self._ticker.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # receive → open → admit

    def receive(self, message: Message) -> None:
        """Take a call that has come, or refuse it."""
        try:
            job = self._open(message)
            if job.request.method == RESUME:
                self._resume(message)
                return
        except errors.FabricError as refused:
            self._refuse(message, refused)
            return
        hands = self._hands
        if hands.running < self._concurrency:
            self._take(job)
            self._begin(job)
        elif len(hands.queue) < self._queue:
            self._take(job)
            hands.queue.append(job)
        else:
            self._refuse(message, errors.Overloaded())

    def _open(self, message: Message) -> _Job:
        """Read the routing facts; the body stays closed."""
        now = time.time()
        deadline = subjects.due_of(message.reply) or now + _DEFAULT_DEADLINE
        if deadline <= now:
            raise errors.DeadlineExceeded("the deadline had passed when the call arrived")
        if message.reply in self._early:
            del self._early[message.reply]
            raise errors.CallCancelled
        key, principal, trace, roles = None, None, None, _NO_ROLES
        if headers := message.headers:
            key, principal = headers.get(Header.KEY), headers.get(Header.PRINCIPAL)
            trace = Trace.of(headers.get(Header.TRACEPARENT), headers.get(Header.TRACESTATE))
            roles = roles_in(headers.get(Header.ROLES))
        method = self._methods.get(message.subject) or self._method(message.subject)
        context = Context(
            Scope(deadline, principal, trace, roles),
            agent=self._agent,
            instance=self._instance,
            key=key,
            fabric=self._fabric,
            reply=message.reply,
            emit=self._emit,
            ask=self._ask,
        )
        job = _Job(message, Request(method, message.body), context, time.monotonic())
        context.owner = job
        return job

    def _method(self, subject: str) -> str:
        """The MCP method in a subject's tokens from the fourth on; remembered for the few that exist."""
        method = "/".join(subject.split(".")[3:])
        if len(self._methods) < 64:
            self._methods[subject] = method
        return method

    def _take(self, job: _Job) -> None:
        jobs, reply = self._hands.jobs, job.message.reply
        job.key = reply if reply and reply not in jobs else str(id(job))  # a foreign caller may use one inbox for many
        jobs[job.key] = job
        self._idle.clear()
        if self._ticker is None:
            self._ticker = self._loop.call_later(_TICK, self._tick)

    def _begin(self, job: _Job) -> None:
        self._hands.running += 1
        # Often begun by a call that ends: of its context, of its span above all, this one is to see nothing.
        job.task = self._loop.create_task(self._run(job), context=self._outside.copy())

    # handle → reply

    async def _run(self, job: _Job) -> None:
        job.begun = True
        if (trace := job.context.scope.trace) is not None and trace.sampled:
            self._begin_span(job, trace)
        current_scope.set(job.context.scope)
        current_asker.set(job.context)
        if job.ended is None and job.context.remaining <= 0:  # the loop was busy for so long
            job.ended = errors.DeadlineExceeded("the deadline passed before the call began")
        try:
            if job.ended is not None:
                raise job.ended
            result = await self._handler(job.context, job.request)
            try:  # noqa: SIM105 - every call comes here, and `suppress` would cost it something
                await self._reply(job.message, result)
            except asyncio.CancelledError:
                pass  # it is on its way already, and no other may overtake it
            self.served += 1
            if job.span is not None:
                tracing.answered(job.span, result)
            if job.suspended is not None:
                self._suspensions.ended(job.suspended, Message("", result))
        except asyncio.CancelledError:
            await self._fail(job, job.ended or errors.HandlerFailed("the handler cancelled itself"))
        except errors.FabricError as failure:
            await self._fail(job, failure)
        except GeneratorExit:
            raise  # the loop is gone: nobody can be told
        except BaseException as failure:  # whatever it is, it ends this call and nobody else's
            log.exception("%s failed in %s", job.request.method, self)
            await self._fail(job, errors.HandlerFailed(f"{type(failure).__name__}: {failure}"))
        finally:
            if job.span is not None:
                self._end_span(job, job.span)
            self.spent += time.monotonic() - job.taken
            self._hands.running -= 1
            self._let_go(job)
            job.context.owner = None  # else the two would keep each other, and leave each call to the garbage collector
            self._next()

    async def _reply(self, message: Message, result: Body) -> None:
        if not message.reply:
            return
        try:
            await self._transport.publish(Message(message.reply, result))
        except (TypeError, ValueError) as failure:  # what orjson raises for a value without a JSON form
            raise errors.UnencodableResult(str(failure)) from failure
        except errors.MessageTooLarge as failure:  # the work is done, so this is no refusal of the call
            raise errors.UnencodableResult(f"the answer is too large: {failure}") from failure
        except errors.TransportUnavailable:
            log.warning("an answer could not be sent; its caller will repeat the call or see it time out")

    def _begin_span(self, job: _Job, trace: Trace) -> None:
        """Make the handling a span, below which is whatever the handler does."""
        method, waited = job.request.method, time.monotonic() - job.taken
        start = time.time_ns() - int(waited * 1e9)
        about = {**self._about, Attribute.WAITED: waited}
        job.span = span = tracing.begin(method, SpanKind.SERVER, trace, about, start=start)
        tracing.enter(span)
        scope = job.context.scope
        job.context.scope = Scope(scope.deadline, scope.principal, tracing.trace_of(span, trace), scope.roles)

    def _end_span(self, job: _Job, span: Span) -> None:
        """Only now it is known what was asked for: whoever handled it has opened the request."""
        target = str(job.context.params.get("name") or job.context.params.get("uri") or "")
        span.set_attributes(named(job.request.method, target))
        span.update_name(title(job.request.method, target))
        span.end()

    async def _fail(self, job: _Job, failure: errors.FabricError) -> None:
        if job.span is not None:
            tracing.failed(job.span, failure)
        await self._reply_error(job.message, failure)
        if job.suspended is not None:
            self._suspensions.ended(job.suspended, _error("", errors.to_wire(failure)))

    async def _reply_error(self, message: Message, failure: errors.FabricError) -> None:
        self.failed += 1
        self.last_error = str(failure)
        if not message.reply:
            return
        wire = errors.to_wire(failure)
        try:
            try:
                await self._transport.publish(_error(message.reply, wire))
            except (errors.MessageTooLarge, TypeError, ValueError):  # its words or its data are no JSON, or too much
                short = {"code": wire["code"], "message": _one_line(wire["message"])}
                await self._transport.publish(_error(message.reply, short))
        except errors.FabricError:
            log.warning("an error could not be sent: %s", failure)

    def _refuse(self, message: Message, refused: errors.FabricError) -> None:
        """Answer an error without having begun."""
        self._spawn(self._reply_error(message, refused))

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _let_go(self, job: _Job) -> None:
        self._hands.jobs.pop(job.key, None)
        if not self._hands.jobs:
            self._idle.set()

    def _next(self) -> None:
        """Begin what waits, while there is room."""
        hands = self._hands
        while hands.queue and hands.running < self._concurrency:
            if (job := hands.queue[0]).context.remaining <= 0:
                self._end(job, errors.DeadlineExceeded())
            else:
                self._begin(hands.queue.popleft())

    # what handlers ask

    async def _ask(self, context: Context, key: str, request: dict[str, Any]) -> Any:
        """Answer a call with a question of its handler; returns the answer, which another call brings."""
        job: _Job = context.owner
        job.suspended = job.suspended or Suspended()
        async with job.suspended.turn:
            question = self._suspensions.question(job, key, request, dict(context.answers))
            # Until somebody brings the answer, who may be quicker than the writing of the question; and should this end
            # while it is written, no other answer follows it.
            asked, job.message = job.message, _NOBODY
            try:
                await self._reply(asked, question)
            except errors.UnencodableResult:
                job.message = asked
                raise
            if job.message is _NOBODY:
                self._hands.running -= 1
                self._let_go(job)
                self._next()
            try:
                return await self._suspensions.answer(job)
            finally:
                current_scope.set(context.scope)
                if job.message is _NOBODY:
                    self._hands.running += 1

    def _resume(self, message: Message) -> None:
        """Go on with a handler that has asked."""
        try:
            end = self._suspensions.resume(message, self._adopt)
        except ValueError as broken:
            raise errors.InvalidParams(f"params: {broken}") from None
        if end is not None:
            self._spawn(self._repeat(Message(message.reply, end.body, headers=end.headers)))

    async def _repeat(self, end: Message) -> None:
        with suppress(errors.FabricError):  # whoever asked again may do so once more
            await self._transport.publish(end)

    def _adopt(self, job: _Job, message: Message) -> None:
        """Whatever a handler says from now on goes to whoever sent `message`."""
        if self._hands.jobs.get(job.key) is job:
            self._let_go(job)
        else:
            self._hands.running += 1
        job.message = message
        scope = job.context.scope
        job.context.reply = message.reply
        job.context.scope = scope._replace(deadline=subjects.due_of(message.reply) or time.time() + _DEFAULT_DEADLINE)
        self._take(job)

    # what comes beside the calls

    async def _emit(self, reply: str, kind: str, frame: dict[str, Any]) -> None:
        """Send one frame ahead of the answer that goes to `reply`."""
        if not reply:
            return
        try:
            await self._transport.publish(Message(reply, Body(frame), headers={Header.FRAME: kind}))
        except errors.TransportUnavailable:
            log.debug("a %s frame could not be sent; the work goes on without", kind)

    def cancel(self, reply: str) -> None:
        """End a call whose caller waits no longer."""
        if (job := self._hands.jobs.get(reply)) is not None:
            self._end(job, errors.CallCancelled())
        elif (subjects.due_of(reply) or 0.0) > time.time():  # a foreign caller may use one address for many calls
            self._early[reply] = None
            if len(self._early) > _MOST_EARLY:
                del self._early[next(iter(self._early))]

    def cancel_waiting(self, identifier: str) -> None:
        """End a handler whose question nobody will answer."""
        if (job := self._suspensions.job(identifier)) is not None:
            self._end(job, errors.CallCancelled())

    def _end(self, job: _Job, why: errors.FabricError) -> None:
        """End a call from outside, whether it runs or waits."""
        if job.ended is not None:
            return
        job.ended = why
        job.context.cancelled = True
        if job.task is not None:
            if job.begun:  # else it sees by itself, in its first step, that it was ended
                job.task.cancel()
        else:
            self._hands.queue.remove(job)
            self._let_go(job)
            self._refuse(job.message, why)

    def _tick(self) -> None:
        """End what is past its deadline; once a second, tell callers what is still being worked on."""
        self._ticker = None
        jobs = self._hands.jobs
        if not jobs:
            return
        now, wall = time.monotonic(), time.time()
        for job in list(jobs.values()):
            if job.context.scope.deadline <= wall:
                self._end(job, errors.DeadlineExceeded())
        if now >= self._alive_due:
            self._alive_due = now + ALIVE_INTERVAL
            self._say_alive(now - ALIVE_INTERVAL / 2)
        self._ticker = self._loop.call_later(_TICK, self._tick)

    def _say_alive(self, taken_before: float) -> None:
        """One message to each caller with all of its calls that have been in hand for a while."""
        numbers: dict[str, list[str]] = {}
        for reply, job in self._hands.jobs.items():
            if job.taken < taken_before and subjects.due_of(reply):  # a foreign caller hears no signs of life
                numbers.setdefault(subjects.alive(reply, self._instance), []).append(subjects.number_of(reply))
        for subject, mine in numbers.items():
            self._spawn(self._publish_alive(subject, mine))

    async def _publish_alive(self, subject: str, numbers: list[str]) -> None:
        try:
            await self._transport.publish(Message(subject, Body({"calls": numbers})))
        except errors.TransportUnavailable:
            return  # the caller hears the next one, or sends the call elsewhere


def _error(reply: str, wire: dict[str, Any]) -> Message:
    headers = {Header.ERROR_CODE: str(wire["code"]), Header.ERROR: _one_line(wire["message"])}
    return Message(reply, Body(wire), headers=headers)


def _one_line(text: str) -> str:
    """A header's worth of `text`."""
    return " ".join(text.split())[:256]
