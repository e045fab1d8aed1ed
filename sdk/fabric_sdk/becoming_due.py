"""What has become due, on the worker's side: the server fired it, and here it becomes a task.

Above: the taker. Below: JetStream. Any worker of the agent may get it, and any may get it twice: the task's id makes a
repetition harmless.
"""

from __future__ import annotations

import logging
from typing import Final

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.streams import LATER
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import CARRIED, keyed_task_id, priority_of
from fabric_sdk.jetstream import Delivery, JetStream, SubjectTaken
from fabric_sdk.patterns.leftover import drop_leftover

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 5.0


async def start_due(jetstream: JetStream, agent: str, delivery: Delivery) -> None:
    """Put what has become due for `agent` into its queue."""
    name = delivery.message.subject.rpartition(".")[2]
    headers = delivery.message.headers or {}
    carried = {header: headers[header] for header in (*CARRIED, Header.EXPIRES) if header in headers}
    carried.setdefault(Header.KEY, name)  # its own id; what becomes due twice is then known for one task
    priority = priority_of(headers.get(Header.CLASS))
    task_id = name
    if subjects.is_repeated(headers.get(Header.SCHEDULER, "")):
        carried[Header.KEY] = f"{name}@{delivery.sequence}"
        task_id = keyed_task_id(agent, carried[Header.KEY], None)
    carried[Header.MESSAGE_ID] = task_id
    try:
        try:
            await jetstream.store(subjects.task(agent, priority, task_id), delivery.message.body, carried)
        except SubjectTaken:  # it was started already
            settled = (LATER, delivery.sequence)
            await drop_leftover(jetstream, agent, task_id, carried.get(Header.CLAIM), settled=settled)
    except errors.FabricError as refused:
        log.warning("what is due cannot be started yet: %s", refused)
        await delivery.nak(_AGAIN_SECONDS)
        return
    await delivery.ack()
