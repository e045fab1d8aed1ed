"""Tasks that moved while the backup was made: each is put where its record says that it was in the end.

Above: restoring. Below: JetStream. The queue was saved before the records. So a task that ended in between would wait
in the queue again, and one that began in between would be nowhere. Only records that were written in between can tell
of such a task, and they are few.
"""

from __future__ import annotations

from typing import Final

from fabric.backup.archive import Archive
from fabric.backup.manifest import StartedTask
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import LATER, RECORDS, TASKS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import Record
from fabric_sdk.jetstream import JetStream

_ONCE: Final = frozenset((Header.BATCH, Header.BATCH_SEQUENCE, Header.BATCH_COMMIT))
"""What a message says of one certain way of storing it."""


async def settle(jetstream: JetStream, archive: Archive) -> None:
    """Put every task where its record says it is.

    Raises:
        FabricError: the server does not answer, or refuses.
    """
    started = {subjects.task_of(each.subject)[1]: each for each in archive.started()}  # of each task, what came last
    async for each in jetstream.every(RECORDS, subjects.RECORD_STORED, after=archive.manifest.records_before):
        try:
            record = Record.of(each.subject, each.body)
        except errors.UnreadableRecord:
            continue  # a worker decides over it, as it always does
        message = started.get(record.id)
        if record.state in ("queued", "running") or (record.state == "dead" and _is_redriven(message)):
            await _put_back(jetstream, record, each.sequence, message)
        elif record.ended:
            await _remove(jetstream, record)


async def _remove(jetstream: JetStream, record: Record) -> None:
    """It ended: it waits nowhere, unless it was redriven since."""
    for stream, subject in (
        (LATER, subjects.later(record.agent, "once", record.id)),
        (LATER, subjects.later(record.agent, "due", record.id)),
        (TASKS, subjects.task(record.agent, "*", record.id)),
    ):
        waiting = await jetstream.last(stream, subject)
        if waiting is not None and Header.REDRIVE not in waiting.headers:
            await jetstream.delete(stream, waiting.sequence)


async def _put_back(jetstream: JetStream, record: Record, place: int, message: StartedTask | None) -> None:
    """It waits or is being worked on: its message is in the queue, in a place that its record does not know yet."""
    if message is None or await jetstream.last(TASKS, subjects.task(record.agent, "*", record.id)) is not None:
        return
    record.origin = 0
    written = {Header.EXPECTED: str(place), Header.TTL: f"{record.lasts}s"}
    await jetstream.store(subjects.record(record.agent, record.id), record.body(), written)
    headers = {name: value for name, value in message.headers.items() if name not in _ONCE}
    await jetstream.store(message.subject, Body(encoded=message.body), headers)


def _is_redriven(message: StartedTask | None) -> bool:
    """Whether it was dead, and is to be tried again."""
    return message is not None and Header.REDRIVE in message.headers
