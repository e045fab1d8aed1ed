"""Tasks, as they come to a worker: pull → wait for a hand → do → pull again.

Above: the worker. Below: `doing`, which does one, and JetStream.

Each class is a lane of its own. A worker with free hands asks every lane for as much as it can begin; one without
keeps a few messages of each at hand, and takes them only if nobody with free hands asked (JetStream's prioritized
pulls). So what is critical waits for no queue, only for the first hand that is free.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import chain, product
from typing import Any, Final

from fabric_sdk import tuning
from fabric_sdk.attempt import Attempt, Superseded
from fabric_sdk.becoming_due import start_due
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.streams import RECORDS, TASKS, due_lane, task_lane
from fabric_sdk.contracts.task import PRIORITIES, Policy, Priority, Record
from fabric_sdk.doing import Doer, InHand
from fabric_sdk.jetstream import Delivery, Pull
from fabric_sdk.pipeline import Handler
from fabric_sdk.routing.tasks import Turns
from fabric_sdk.transports.base import ConnectionEvent

log = logging.getLogger(__name__)

_TICK: Final = 0.25
_LOOK_SECONDS: Final = 1.0
_EXTENSIONS: Final = 3
"""How often the time for a task is extended before it would run out."""
_GIVE_BACK_SECONDS: Final = 1.0
"""How long a task waits at a worker without a free hand, before it is left to others."""
_WITHOUT_SECONDS: Final = 10.0
"""Between two attempts to find JetStream."""
_CANCEL_SECONDS: Final = 2.0


class TaskTaker:
    """Takes an agent's tasks off their queues, and those of its capabilities, for one worker."""

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
        self._jetstream = fabric.jetstream
        self._agent = description.name
        self._addresses = (self._agent, *map(subjects.having, description.capabilities))
        self._doer = Doer(fabric, description, instance, handler, policies or {})
        self._concurrency = concurrency
        self._outside = copy_context()
        """What a task sees of the context: nothing of the one that had the hand before."""
        self._ack_wait = tuning.ack_wait()
        self._turns = Turns(tuning.weights())
        self._waiting: dict[Priority, deque[InHand]] = {priority: deque() for priority in PRIORITIES}
        self._running: set[InHand] = set()
        self._pulls: dict[tuple[str, Priority], Pull] = {}
        """By the address that tasks were started at: the agent's name, or a capability of its."""
        self._due: dict[str, Pull] = {}
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
    def done(self) -> int:
        """Tasks that were done."""
        return self._doer.done

    @property
    def failed(self) -> int:
        """Attempts that failed."""
        return self._doer.failed

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
        self._living = [keep_on(self._live, f"taking tasks of {self._agent}")]

    async def stop_taking(self) -> None:
        """Ask for nothing more, and give back what waits."""
        self._taking = False
        await end(self._living)
        await asyncio.gather(*(pull.close() for pull in self._all_pulls()))
        giving = [asyncio.create_task(self._doer.give_back(each)) for lane in self._waiting.values() for each in lane]
        for lane in self._waiting.values():
            lane.clear()
        await end(giving, grace=_CANCEL_SECONDS, patience=_CANCEL_SECONDS)
        if self._running:
            self._living = [keep_on(self._tick_on, f"keeping tasks of {self._agent}")]

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
        handlers = [each.task for each in self._running if each.task]
        await end([*self._living, *self._tasks, *handlers], patience=_CANCEL_SECONDS)

    def cancel(self, task_id: str) -> None:
        """End the task of this id, if it is in hand and was cancelled."""
        if any(each.id == task_id for each in self._in_hand()):
            self._spawn(self._end_cancelled(task_id))

    def _all_pulls(self) -> list[Pull]:
        return [*self._pulls.values(), *self._due.values()]

    def _in_hand(self) -> list[InHand]:
        return [*self._running, *chain.from_iterable(self._waiting.values())]

    async def _end_cancelled(self, task_id: str) -> None:
        """End what its record says was cancelled; of a task that goes on, anybody might say so."""
        for each in [each for each in self._in_hand() if each.id == task_id]:
            try:
                kept = await self._jetstream.last(RECORDS, subjects.record(each.agent, task_id))
                cancelled = kept is not None and Record.of(kept.subject, kept.body).state == "cancelled"
            except errors.FabricError:
                return  # whoever has it in hand learns it at the next write
            if not cancelled or each not in self._in_hand():
                continue
            if each in self._running:
                each.end(errors.TaskCancelled())
            else:
                self._waiting[each.priority].remove(each)
                self._spawn(each.delivery.ack())

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
        for address, priority in product(self._addresses, PRIORITIES):
            if (address, priority) not in self._pulls:
                lane = task_lane(address, priority, self._ack_wait)
                pull = Pull(self._jetstream, lane, partial(self._receive, priority))
                await pull.open()
                self._pulls[address, priority] = pull
        for address in self._addresses:
            if address not in self._due:
                due = Pull(self._jetstream, due_lane(address, self._ack_wait), partial(self._receive_due, address))
                await due.open()
                self._due[address] = due
        self._taking = True
        self._stir.set()

    async def _ask_on(self) -> None:
        """Keep asking the lanes for what there are hands for."""
        while True:
            await self._stir.wait()
            self._stir.clear()
            free = self._concurrency - len(self._running)
            for (_, priority), pull in self._pulls.items():
                room = free or self._ahead
                wanted = room - len(self._waiting[priority]) - pull.outstanding
                if wanted > 0 and (wanted >= room // 2 or not pull.outstanding):
                    await pull.ask(wanted, last=free == 0)
            for due in self._due.values():
                if not due.outstanding:
                    await due.ask(self._concurrency)

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._watershed = None

    def _receive(self, priority: Priority, delivery: Delivery) -> None:
        self._waiting[priority].append(InHand(delivery, priority, time.monotonic()))
        self._idle.clear()
        self._begin()
        self._stir.set()

    def _receive_due(self, address: str, delivery: Delivery) -> None:
        self._spawn(start_due(self._jetstream, address, delivery))
        self._stir.set()

    def _begin(self) -> None:
        """Give what waits to the hands that are free."""
        while len(self._running) < self._concurrency:
            priority = self._turns.next({each: len(lane) for each, lane in self._waiting.items()})
            if priority is None:
                return
            each = self._waiting[priority].popleft()
            self._running.add(each)
            each.task = asyncio.create_task(self._run(each), context=self._outside.copy())

    async def _run(self, each: InHand) -> None:
        watershed, lost = self._watershed, self._pulls[each.agent, each.priority].lost
        try:
            await self._doer.do(each, known=watershed is not None and not lost and each.delivery.sequence > watershed)
        finally:
            self._running.discard(each)
            self._ended += 1
            self._ahead = max(self._ahead, 1)
            self._begin()
            self._stir.set()
            if not self._running and not self.waiting:
                self._idle.set()

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
                    self._spawn(self._doer.give_back(self._waiting[priority].popleft()))

    async def _look_on(self) -> None:
        """Notice a silent server; apart from the rest, since it takes its time to ask one that is away."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._watershed is None or any(pull.lost for pull in self._pulls.values()):
                with suppress(errors.FabricError):
                    self._watershed = await self._jetstream.end_of(TASKS)
            await asyncio.gather(*(pull.look() for pull in self._all_pulls()))
            self._stir.set()

    def _end_overdue(self, each: InHand, now: float) -> None:
        attempt = each.attempt
        if attempt is None or each.context is None:
            return
        if attempt.deadline <= time.time():
            each.end(errors.DeadlineExceeded(f"timeout: the attempt took longer than {attempt.policy.timeout:g} s"))
        elif attempt.policy.silence is not None and now - attempt.heard > attempt.policy.silence:
            each.end(errors.DeadlineExceeded(f"timeout: the attempt was silent for {attempt.policy.silence:g} s"))

    async def _write_progress(self, each: InHand, attempt: Attempt) -> None:
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
