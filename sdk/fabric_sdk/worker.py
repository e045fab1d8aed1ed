"""A worker, one instance of an agent: it begins, says that it is there, hears what comes, and leaves in order.

Above: `fabric worker` and tests. Below: a transport and whatever is `Servable`; `answering` takes the calls, `taking`
the tasks, `hosting` the streams, `listening` the events. A worker is stateless: nothing is lost with it that was
promised to be kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from contextvars import Context as ContextVars
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import uuid4

from fabric_sdk.announce import Announcer, Load
from fabric_sdk.answering import CallTaker
from fabric_sdk.authoring.reaction import MARK, Reaction
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.asking import RESUME
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.hosting import StreamHost
from fabric_sdk.listening import Listener
from fabric_sdk.patterns.stream import OPEN
from fabric_sdk.pipeline import Middleware, Request, compose
from fabric_sdk.taking import TaskTaker
from fabric_sdk.transports.base import Subscription, Transport

log = logging.getLogger(__name__)

_CANCEL_SECONDS: Final = 2.0


class Servable(Protocol):
    """What a worker can serve: `fabric_sdk.Agent`, or a hosted MCP server."""

    async def describe(self) -> Description:
        """Name and offer, asked once when the worker starts."""
        ...

    async def handle(self, context: Context, request: Request, /) -> Body:
        """Answer one request (`pipeline.Handler`)."""
        ...

    def lifespan(self, fabric: Fabric, /) -> AbstractAsyncContextManager[None]:
        """Held open while the worker serves."""
        ...


@dataclass(slots=True)
class Limits:
    """How much a worker takes on."""

    concurrency: int = 64
    """Calls handled at once."""
    tasks: int = 64
    """Tasks worked on at once, beside the calls."""
    streams: int = 1024
    """Streams open at once, beside both."""
    queue: int = 1024
    """Calls waiting for their turn; beyond it, a call is refused with `Overloaded`."""


class Worker:
    """One instance of an agent on a transport."""

    def __init__(
        self,
        transport: Transport,
        servable: Servable,
        *,
        limits: Limits | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        self.instance = uuid4().hex[:16]
        self.limits = limits or Limits()
        self._transport = transport
        self._servable = servable
        self._handler = compose(self._handle, middleware)
        limits = self.limits
        self._calls = CallTaker(
            transport, self.instance, self._handler, concurrency=limits.concurrency, queue=limits.queue
        )
        self._subscriptions: list[Subscription] = []
        self._describing: set[asyncio.Task[None]] = set()
        self._exit = AsyncExitStack()

    def __repr__(self) -> str:
        return repr(self._calls)

    @property
    def served(self) -> int:
        """Calls that were answered."""
        return self._calls.served

    @property
    def failed(self) -> int:
        """Calls that were answered with an error, or refused."""
        return self._calls.failed

    @property
    def not_waited_for(self) -> list[str]:
        """The agents whose breaker is open: calls that its handlers make of these fail at once."""
        return self._fabric.caller.breakers.open

    async def start(self) -> None:
        """Enter the lifespan, hear calls, and tell the fabric."""
        try:
            await self._start(copy_context())
        except BaseException:
            await self._exit.aclose()
            raise

    async def _start(self, outside: ContextVars) -> None:
        self._fabric = await self._exit.enter_async_context(Fabric.over(self._transport))
        await self._exit.enter_async_context(self._servable.lifespan(self._fabric))
        self.description = await self._servable.describe()
        name = subjects.checked_served_name(self.description.name, self.description.kind)
        self._addresses = (name, *map(subjects.having, self.description.capabilities))
        self._fabric.events.source = f"/agents/{name}"
        handler, most = self._handler, self.limits.tasks
        self._reactions: list[Reaction] = list(getattr(self._servable, "reactions", {}).values())
        policies = {MARK + reaction.name: reaction.policy for reaction in self._reactions}
        self._taker = TaskTaker(
            self._fabric, self.description, self.instance, handler, concurrency=most, policies=policies
        )
        self._streams = StreamHost(self._fabric, self.description, self._handler, self.limits.streams)
        self._calls.open(self._fabric, name, outside)
        # Nothing comes before all is there to take it; and what fails half-way leaves nobody who would.
        self._controls = [await self._hear(subjects.control(each), self._receive_control) for each in self._addresses]
        await self._hear(subjects.changed(name), self._receive_changed)
        take = self._calls.receive
        self._subscriptions = [
            *[await self._hear(subjects.calls(each), take, queue=subjects.POOL) for each in self._addresses],
            await self._hear(subjects.directs(self.instance), take),
        ]
        await self._transport.flush()
        self._announcer = Announcer(self._transport, self.description, self.instance, self.load)
        await self._announcer.open()
        self._taker.open()
        self._listener = Listener(self._fabric, name, self._reactions)

    async def _hear(self, subject: str, take: Callable[[Message], None], *, queue: str = "") -> Subscription:
        subscription = await self._transport.subscribe(subject, take, queue=queue)
        self._exit.push_async_callback(subscription.close)
        return subscription

    async def drain(self, grace: float = 30.0) -> None:
        """Leave without losing anything: take nothing new, finish what is in hand, say goodbye.

        Args:
            grace: seconds; calls that run longer are cancelled and answered with `WorkerLost`, tasks given back, but
                for those that are tried once.
        """
        self._announcer.draining()
        await self._listener.close()
        with suppress(errors.TransportUnavailable):  # handlers that have asked are in hand, and get their answers so
            await self._hear(subjects.direct(self.instance, RESUME), self._calls.receive)
        await asyncio.gather(self._taker.stop_taking(), *(each.close() for each in self._subscriptions))
        try:
            await asyncio.wait_for(self._finished(), grace)
        except TimeoutError:
            self.hurry()
            with suppress(TimeoutError):  # a handler may refuse to be cancelled; it goes with the process
                await asyncio.wait_for(self._finished(), _CANCEL_SECONDS)
        await self._taker.close()
        await self._announcer.close()
        await asyncio.gather(*(control.close() for control in self._controls))
        await self._calls.close()
        await asyncio.gather(*self._describing, return_exceptions=True)
        await self._exit.aclose()

    async def _finished(self) -> None:
        await self._calls.finished()
        await asyncio.gather(self._taker.finished(), self._streams.finished())

    def hurry(self) -> None:
        """End the calls in hand, each answered with `WorkerLost`, and the tasks: a `drain` waits for them no longer."""
        self._taker.hurry()
        self._streams.hurry()
        self._calls.hurry()

    async def _handle(self, context: Context, request: Request) -> Body:
        """The innermost handler: the agent's, but for what the heartbeats announce by digest."""
        if request.method == "fabric/describe":
            return Body(self.description.model_dump(mode="json"))
        if request.method == OPEN:
            return await self._streams.open(context, request.params)
        try:
            return await self._servable.handle(context, request)
        except errors.FabricError as failure:
            # A task has no caller that would send it again: its policy decides, and wants to know what it was.
            if not failure.retryable or context.task is not None:
                raise
            # Refused by an agent that it called, a handler would tell its own caller that this call may be sent again,
            # though it has begun; so would a hosted server whose codes happen to be ours.
            raise errors.HandlerFailed(str(failure), data=failure.data) from failure

    def _receive_changed(self, message: Message) -> None:
        """One instance says that the agent's lists changed; perhaps those of this one did as well."""
        with suppress(ValueError):
            if "list" in message.body.members():
                describing = asyncio.create_task(self._describe_again())
                self._describing.add(describing)
                describing.add_done_callback(self._describing.discard)

    async def _describe_again(self) -> None:
        try:
            description = await self._servable.describe()
        except Exception:  # the author's code: what it offered before stays announced
            log.exception("%s cannot say what it offers now", self.description.name)
            return
        same = description.name == self.description.name, description.capabilities == self.description.capabilities
        if description.digest != self.description.digest and all(same):  # what it hears was settled when it began
            self.description = description
            self._announcer.redescribe(description)

    def _receive_control(self, message: Message) -> None:
        try:
            said = message.body.members()
        except ValueError:
            return
        if "task" in said:
            self._taker.cancel(str(said["task"]))
        if "cancel" in said:
            self._calls.cancel(str(said["cancel"]))
        if "waiting" in said:
            self._calls.cancel_waiting(str(said["waiting"]))

    def load(self) -> Load:
        """How busy it is."""
        calls, tasks = self._calls, self._taker
        return Load(
            self.limits.concurrency,
            calls.running + tasks.running,
            calls.waiting + tasks.waiting,
            calls.served + tasks.done,
            calls.failed + tasks.failed,
            calls.spent,
            calls.last_error,
        )
