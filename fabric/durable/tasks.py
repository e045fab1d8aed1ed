"""Which tasks there are, and whose a task is.

Above: the agent `durable`, the command line. Below: the SDK's JetStream. What is on record is read in one pass; only
what still waits for its first worker is asked for one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from fabric_sdk import Fabric, Record, Task
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.contracts.errors import UnknownTask, UnreadableRecord
from fabric_sdk.contracts.streams import LATER, RECORDS, TASKS, Stream
from fabric_sdk.contracts.task import State
from fabric_sdk.jetstream import JetStream, Reader

_SILENCE: Final = 3.0
"""Seconds after which no more records are waited for: the last ones may have ended their time meanwhile."""
_BRIEFLY: Final = ("id", "agent", "tool", "state", "priority", "queued", "changed", "expires", "key", "principal")


async def located(fabric: Fabric, task_id: str) -> Task:
    """The task of this id, whichever agent's it is.

    Raises:
        UnknownTask: there is none.
    """
    subjects.checked_token(task_id)
    for stream, subject in (  # in the order in which a task wanders, so that it is not missed in between
        (LATER, subjects.later("*", "once", task_id)),
        (LATER, subjects.later("*", "due", task_id)),
        (TASKS, subjects.task("*", "*", task_id)),
        (RECORDS, subjects.record("*", task_id)),
    ):
        await fabric.jetstream.ensure(stream)
        if (found := await fabric.jetstream.last(stream, subject)) is not None:
            return fabric.agent(_agent_of(found.subject)).task(task_id)
    raise UnknownTask(
        f"there is no task {task_id!r}, or its end is no longer on record", fix="`fabric task list` lists those kept"
    )


async def listed(fabric: Fabric, *, agent: str = "*", state: State | None = None, limit: int = 100) -> list[Record]:
    """The tasks of an agent, or of all, in one state or any, the newest last: the `limit` that changed last.

    Without what a task was given, keeps, or came to: thousands of results are never held at once.
    Of more than `limit` that still wait for their first worker, it finds some.
    """
    waiting = await _waiting(fabric.jetstream, agent)
    found: dict[str, Record] = {}
    async for record in _recorded(fabric.jetstream, agent):
        found.pop(record.id, None)  # it changed while they were read
        if record.state == "dead" and record.id in waiting:
            continue  # it is being tried again, which its record does not know yet
        waiting.pop(record.id, None)
        if state in (None, record.state):
            found[record.id] = record
            if len(found) > limit:
                del found[next(iter(found))]
    if state in (None, "queued", "expired"):
        for task_id, owner in islice(waiting.items(), limit):
            with suppress(UnknownTask, UnreadableRecord):  # it ended meanwhile, and was not to be kept
                record = await fabric.tasks.read(owner, task_id)
                if state in (None, record.state):
                    found[task_id] = record
    return sorted(found.values(), key=lambda record: record.changed)[-limit:]


def summary(record: Record) -> dict[str, Any]:
    """What most want to know of a task: nothing of it is large."""
    last = record.errors[-1].get("error") if record.errors else None
    return {name: getattr(record, name) for name in _BRIEFLY} | {"attempt": record.tries, "error": last}


def everything(record: Record) -> dict[str, Any]:
    """All that is known of a task."""
    return {name: getattr(record, name) for name in Record.__slots__}


async def _waiting(jetstream: JetStream, agent: str) -> dict[str, str]:
    """Ids of tasks in the queue or before their time, each with its agent: of more than 100,000, so many."""
    found: dict[str, str] = {}
    for stream, wanted in (
        (LATER, subjects.later(agent, "once", "*")),
        (LATER, subjects.later(agent, "due", "*")),
        (TASKS, subjects.task(agent, "*", "*")),
    ):
        for subject in await _subjects(jetstream, stream, wanted):
            found[subject.rpartition(".")[2]] = _agent_of(subject)
    return found


async def _subjects(jetstream: JetStream, stream: Stream, wanted: str) -> dict[str, int]:
    await jetstream.ensure(stream)
    about = await jetstream.request(f"STREAM.INFO.{stream.name}", {"subjects_filter": wanted})
    return about["state"].get("subjects") or {}


async def _recorded(jetstream: JetStream, agent: str) -> AsyncGenerator[Record]:
    """Every record, in the order of their last changes."""
    reader = Reader(jetstream, RECORDS, (subjects.record(agent, "*"),), {"deliver_policy": "all"})
    left = await reader.open()
    try:
        with suppress(TimeoutError):
            while reader.seen < left:
                async with asyncio.timeout(_SILENCE):
                    delivery = await anext(reader)
                if (record := _record_of(delivery.message)) is not None:
                    yield record
                if not delivery.pending:
                    return
    finally:
        await reader.close()


def _record_of(message: Message) -> Record | None:
    """The record in a stored message, unless it is none of ours: one that is odd must not hide the others."""
    try:
        record = Record.of(message.subject, message.body)
    except UnreadableRecord:
        return None
    record.state = "expired" if record.overdue(time.time()) else record.state
    record.result, record.parked, record.saved, record.steps = None, None, [], {}  # large, and of no use in a list
    return record


def _agent_of(subject: str) -> str:
    """Whose a task's subject is, in any of the streams."""
    return subject.split(".")[2]
