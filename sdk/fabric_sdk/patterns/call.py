"""Calls: request and answer with an absolute deadline, cancellation, progress, and retries that do no harm.

Guarantee: **at most one answer**. A call ends in exactly one of three ways before its deadline passes: an answer, an
error that says whether the work may have begun, or cancellation. It is sent again only under the rule of
`routing.retry`.

Above: `client`, the gateway. Below: a `Transport`. How a lost worker is noticed: whoever works on a call for longer
than a second says so every second (`subjects.alive`); silence beyond `SILENCE` means that the worker, or the
message, is gone. Nothing is paid for calls that are quick. Who is not there is waited for, until calls have done so in
vain (`routing.breaker`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

from opentelemetry.trace import Span, SpanKind
from tenacity import AsyncRetrying, RetryCallState
from tenacity.asyncio import retry_if_exception

from fabric_sdk import tracing
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.conventions import NATS, Attribute, named, title
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Scope, Trace
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.patterns.gather import gather
from fabric_sdk.routing.breaker import TRY_SECONDS, Breakers
from fabric_sdk.routing.retry import BACKOFF, FIRST_WAIT, may_repeat
from fabric_sdk.transports.base import ConnectionEvent, Subscription, Transport

log = logging.getLogger(__name__)

ALIVE_INTERVAL: Final = 1.0
"""Seconds between a worker's signs of life for the calls it is working on."""
SILENCE: Final = 3.5 * ALIVE_INTERVAL
"""Seconds without a sign of life after which a call that may be repeated is sent to another instance."""
LONG_SILENCE: Final = 15.0
"""The same for a call that must not be repeated: as long as a lease, since a handler may block its worker's loop."""
_TICK: Final = 0.1
"""Seconds between two looks at the calls that wait: a deadline is noticed within this …"""
_EXACT_BELOW: Final = 1.0
"""… and exactly, with a timer of its own, for calls that have less than this many seconds."""
_LEFT_SECONDS: Final = 0.3
"""How long an instance that takes no call is asked whether it is there at all."""
PATIENCE: Final = 10.0
"""Seconds for which a call waits for an instance that takes it: a pool restarts, and a rush passes, well within it."""
MOST_LOST: Final = 2
"""Repetitions after a lost worker: a call that kills whoever takes it must not go through the whole pool."""
_IMPATIENT: Final = (errors.AgentUnavailable, errors.Overloaded)
"""What is waited out for no longer than that, however far the deadline is."""
_UNTAKEN: Final = (
    errors.AgentUnavailable,
    errors.TransportUnavailable,
    errors.DeadlineExceeded,
    errors.CallCancelled,
)
"""Failures after which nobody knows of an instance."""


_START_ONE: Final = "start one with `fabric worker`, or check the name with `fabric ps`"

OnFrame = Callable[[str, Body], None]
"""Hears what comes ahead of the answer: the kind (`progress`, `log`) and the JSON object."""


@dataclass(slots=True)
class Call:
    """One call, as its caller describes it."""

    agent: str
    method: str
    params: Body
    scope: Scope
    safe: bool | Callable[[], Awaitable[bool]] = False
    """Whether the work may be done twice without harm; a function is asked only when it matters."""
    key: str | None = None
    on_frame: OnFrame | None = None
    instance: str | None = None
    """Ask this one instance rather than any of the agent's."""
    lost: int = 0
    """How many workers fell silent over it so far."""
    progress: float = float("-inf")
    """How far the work has been said to be. A repeated call starts over; its caller hears only of what is new."""
    target: str = ""
    """What the method is asked of, a tool's name say, for whoever reads the trace."""
    span: Span | None = None
    """Of the call, while it is made, if its trace is sampled."""

    def subject(self) -> str:
        """Where the call goes."""
        if self.instance is not None:
            return subjects.direct(self.instance, self.method)
        return subjects.call(self.agent, self.method)

    def headers(self) -> dict[str, str] | None:
        """The routing facts that travel with it, beside subject and reply subject."""
        scope = self.scope
        if self.key is None and scope.principal is None and scope.trace is None:
            return None
        headers = scope.headers()
        if self.key is not None:
            headers[Header.KEY] = self.key
        return headers


@dataclass(slots=True)
class _Waiting:
    call: Call
    answer: asyncio.Future[Body]
    heard: float
    asking: bool = False


class Caller:
    """Sends calls and hears their answers, all over one subscription."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.client = uuid4().hex
        self.breakers = Breakers()
        self._waiting: dict[str, _Waiting] = {}  # by the call's number
        self._sent = 0
        self._closed = False
        self._ticker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._replies: Subscription | None = None
        self._stop_listening: Callable[[], None] | None = None

    async def open(self) -> None:
        """Start to hear answers."""
        self._loop = asyncio.get_running_loop()
        self._replies = await self.transport.subscribe(subjects.replies(self.client), self._receive)
        self._stop_listening = self.transport.listen(self._connection_changed)

    async def close(self) -> None:
        """Hear no more; calls still waiting end with `CallCancelled`, new ones with `TransportClosed`."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        for waiting in list(self._waiting.values()):
            self._fail(waiting, errors.CallCancelled("this client was closed before the answer came"))
        if self._stop_listening is not None:
            self._stop_listening()
        if self._replies is not None:
            await self._replies.close()

    def call(self, call: Call) -> Coroutine[Any, Any, Body]:
        """Send `call` until it is answered or must not be sent again.

        Raises:
            FabricError: what the agent answered, or `AgentUnavailable`, `Overloaded`, `TransportUnavailable`,
                `WorkerLost`, `DeadlineExceeded`, `MessageTooLarge`.
        """
        trace = call.scope.trace
        return self._call(call) if trace is None or not trace.sampled else self._traced(call, trace)

    async def _traced(self, call: Call, trace: Trace) -> Body:
        """The same within a span, in which every attempt is an event."""
        name, about = _described(call.agent, call.method, call.target)
        scope = call.scope
        with tracing.ending(tracing.begin(name, SpanKind.CLIENT, trace, about)) as span:
            below = tracing.trace_of(span, trace)
            call.scope, call.span = Scope(scope.deadline, scope.principal, below, scope.roles), span
            try:
                result = await self._call(call)
                tracing.answered(span, result)
                return result
            finally:  # whoever called may use it for another call
                call.scope, call.span = scope, None

    async def _call(self, call: Call) -> Body:
        if self.breakers and call.instance is None and self.breakers.refuse(call.agent, self._loop.time()):
            raise _absent(call)
        try:
            result = await self._attempt(call)
        except errors.FabricError as failure:
            if not await self._may_repeat(failure, call):
                self._note_taken(call, failure)
                raise
            result = await self._persist(call, failure)
        if self.breakers:
            self._note_taken(call)
        return result

    def _note_taken(self, call: Call, failure: errors.FabricError | None = None) -> None:
        """Close its agent's breaker, unless this failure leaves open whether an instance has taken the call."""
        if not isinstance(failure, _UNTAKEN) and self.breakers.taken(call.agent):
            log.info("calls of %s wait for an instance again: one is there", subjects.who(call.agent))

    def _note_in_vain(self, call: Call) -> None:
        if self.breakers.waited_in_vain(call.agent, self._loop.time()):
            words = "calls of %s fail at once from now on, but for one each %g s: no instance took any for %g s"
            log.warning(words, subjects.who(call.agent), TRY_SECONDS, PATIENCE)

    async def _persist(self, call: Call, failure: errors.FabricError) -> Body:
        """Go on after a first failure that allows it; nothing of this is paid for by a call that succeeds at once."""
        left = call.scope.deadline - time.time()
        wait = random.uniform(0.0, FIRST_WAIT)
        if wait >= left:
            raise failure
        await asyncio.sleep(wait)
        left -= wait
        is_patient = left >= PATIENCE

        def give_up(state: RetryCallState) -> bool:
            last = state.outcome.exception() if state.outcome is not None else None
            limit = min(left, PATIENCE) if isinstance(last, _IMPATIENT) else left
            return (state.seconds_since_start or 0.0) + state.upcoming_sleep > limit

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: self._may_repeat(error, call)),
            wait=BACKOFF,
            stop=give_up,
            reraise=True,
        )

        async def again() -> Body:
            nonlocal failure
            if time.time() >= call.scope.deadline:  # the wait took longer than it should: tell what was wrong before it
                raise failure
            try:
                return await self._attempt(call)
            except errors.FabricError as latest:
                failure = latest
                raise

        try:
            return await retrying(again)
        except errors.FabricError as last:
            if is_patient and call.instance is None and isinstance(last, errors.AgentUnavailable):
                self._note_in_vain(call)
            self._note_taken(call, last)
            raise

    async def _may_repeat(self, failure: BaseException, call: Call) -> bool:
        """The rule of `routing.retry`; whether the call is safe is asked for only when the answer depends on it."""
        unknown = not isinstance(call.safe, bool)
        if unknown and isinstance(failure, errors.FabricError) and failure.retryable and failure.started:
            await _settle(call)
        if isinstance(failure, errors.WorkerLost):
            call.lost += 1
        if isinstance(failure, errors.AgentUnavailable) and await _has_left(self.transport, call):
            return False
        again = call.lost <= MOST_LOST and may_repeat(failure, safe=call.safe is True)
        if again and call.span is not None:
            call.span.add_event("retry", {Attribute.ERROR: type(failure).__name__})
        return again

    async def _attempt(self, call: Call) -> Body:
        if self._closed:
            raise errors.TransportClosed("this client is closed")
        remaining = call.scope.deadline - time.time()
        if remaining <= 0:
            raise errors.DeadlineExceeded
        loop = self._loop
        self._sent += 1
        number, reply = str(self._sent), subjects.reply(self.client, call.scope.deadline, self._sent)
        waiting = _Waiting(call, loop.create_future(), loop.time())
        self._waiting[number] = waiting
        timer = loop.call_later(remaining, self._expire, waiting) if remaining < _EXACT_BELOW else None
        if self._ticker is None:
            self._ticker = loop.call_later(_TICK, self._tick)
        try:
            await self.transport.publish(Message(call.subject(), call.params, reply=reply, headers=call.headers()))
            return await waiting.answer
        except (asyncio.CancelledError, errors.WorkerLost):
            self._spawn(self._cancel(call, reply))  # a worker that is slow rather than lost need not go on either
            raise
        except TypeError as unencodable:
            raise errors.InvalidParams(f"the params have no JSON form: {unencodable}") from unencodable
        finally:
            if timer is not None:
                timer.cancel()
            del self._waiting[number]

    def _receive(self, message: Message) -> None:
        waiting = self._waiting.get(subjects.number_of(message.subject))
        if waiting is None:
            if ".alive." in message.subject:
                self._hear_alive(message.body)
            return  # else an answer nobody waits for any more
        if not message.headers:
            if not waiting.answer.done():
                waiting.answer.set_result(message.body)
        else:
            self._receive_marked(waiting, message)

    def _receive_marked(self, waiting: _Waiting, message: Message) -> None:
        waiting.heard = self._loop.time()
        if (kind := message.header(Header.FRAME)) is not None:
            if waiting.call.on_frame is not None and not waiting.answer.done():
                _hear_frame(waiting.call, waiting.call.on_frame, kind, message.body)
        elif message.header(Header.STATUS) is not None:
            self._fail(waiting, _unavailable(waiting.call))
        elif message.header(Header.ERROR_CODE) is not None:
            try:
                error = errors.from_wire(message.body.value())
            except (ValueError, AttributeError, TypeError):
                error = errors.HandlerFailed(message.header(Header.ERROR))
            self._fail(waiting, error)
        elif not waiting.answer.done():
            waiting.answer.set_result(message.body)

    def _hear_alive(self, body: Body) -> None:
        """A worker names the calls that it is working on."""
        now = self._loop.time()
        try:
            numbers: list[Any] = body.members().get("calls", [])
        except ValueError:
            return
        for number in numbers:
            if (waiting := self._waiting.get(str(number))) is not None:
                waiting.heard = now

    def _tick(self) -> None:
        """Look for calls whose deadline has passed, and for those that nobody works on any more."""
        self._ticker = None
        if not self._waiting:
            return
        now, wall, connected = self._loop.time(), time.time(), self.transport.connected
        for waiting in self._waiting.values():
            if waiting.call.scope.deadline <= wall:
                self._expire(waiting)
            elif connected:
                self._judge_silence(waiting, now - waiting.heard)
        self._ticker = self._loop.call_later(_TICK, self._tick)

    def _judge_silence(self, waiting: _Waiting, silence: float) -> None:
        if silence < SILENCE:
            return
        safe = waiting.call.safe
        if silence >= LONG_SILENCE or safe is True:
            waiting.call.safe = safe is True  # who could not say so in all this time is not asked again
            self._fail(waiting, errors.WorkerLost())
        elif not isinstance(safe, bool) and not waiting.asking:
            waiting.asking = True
            self._spawn(_settle(waiting.call))

    def _connection_changed(self, event: ConnectionEvent) -> None:
        """Nobody can be heard while the connection is away: silence counts from its return."""
        if event == "connected":
            now = self._loop.time()
            for waiting in self._waiting.values():
                waiting.heard = now

    def _expire(self, waiting: _Waiting) -> None:
        self._fail(waiting, errors.DeadlineExceeded())

    def _fail(self, waiting: _Waiting, error: errors.FabricError) -> None:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)

    async def _cancel(self, call: Call, reply: str) -> None:
        """Tell whoever works on it that nobody waits any more."""
        try:
            await self.transport.publish(Message(subjects.control(call.agent), Body({"cancel": reply})))
        except errors.TransportUnavailable:
            return  # the deadline ends the work instead

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@lru_cache(1024)
def _described(agent: str, method: str, target: str) -> tuple[str, tracing.Attributes]:
    """What the span of a call is called, and what it says."""
    about = {Attribute.SYSTEM: NATS, Attribute.AGENT: agent, Attribute.KIND: "send"}
    about |= {Attribute.DESTINATION: f"fab.call.{agent}", **named(method, target)}
    return title(method, target), about


def _hear_frame(call: Call, hear: OnFrame, kind: str, frame: Body) -> None:
    if kind == "progress":
        progress = frame.members().get("progress")
        if not isinstance(progress, (int, float)) or progress <= call.progress:
            return
        call.progress = progress
    hear(kind, frame)


async def _has_left(transport: Transport, call: Call) -> bool:
    """Whether the one instance that is called will never take a call again; nobody waits for it then."""
    if call.instance is None:
        return False
    question = subjects.service("STATS", call.agent, call.instance)
    try:
        found = await gather(transport, question, seconds=_LEFT_SECONDS, most=1)
    except errors.TransportUnavailable:
        return False  # the call goes on when the connection is back
    return not found or _is_leaving(found[0])


def _is_leaving(stats: Any) -> bool:
    try:
        return stats["endpoints"][0]["data"]["beat"]["state"] != "ready"
    except (LookupError, TypeError):
        return False  # it may be no worker of ours, but it is there


async def settled_safe(call: Call) -> bool:
    """Whether the work of `call` may be done twice without harm, found out if need be."""
    await _settle(call)
    return call.safe is True


async def _settle(call: Call) -> None:
    """Find out whether `call` is safe; what cannot be found out is not."""
    if not isinstance(call.safe, bool):
        try:
            async with asyncio.timeout(call.scope.deadline - time.time()):
                call.safe = await call.safe()
        except (errors.FabricError, TimeoutError):
            call.safe = False


def _unavailable(call: Call) -> errors.AgentUnavailable:
    if call.instance is not None:
        return errors.AgentUnavailable(f"instance {call.instance!r} is not taking calls")
    return errors.AgentUnavailable(f"no instance of {subjects.who(call.agent)} is taking calls", fix=_START_ONE)


def _absent(call: Call) -> errors.AgentUnavailable:
    return errors.AgentUnavailable(
        f"no instance of {subjects.who(call.agent)} took a call for {PATIENCE:g} s, so this one does not wait for any; "
        f"one call is tried every {TRY_SECONDS:g} s",
        fix=_START_ONE,
    )
