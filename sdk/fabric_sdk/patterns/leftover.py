"""Claims that are left over: of a task that was started twice, both with params too large for one message.

Above: tasks, and the workers that drop a repetition. Below: JetStream. Each start keeps its params before it can know
that it is one too many.
"""

from __future__ import annotations

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.streams import LATER, RECORDS, TASKS, Stream
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import Claims, JetStream


async def drop_leftover(
    jetstream: JetStream, agent: str, task_id: str, claim: str | None, *, settled: tuple[Stream, int] | None = None
) -> None:
    """Drop a claim, unless something that is kept of its task speaks of it.

    Args:
        jetstream: where it is.
        agent: whose task it is.
        task_id: which.
        claim: nothing to do, if there is none.
        settled: the place of a message that counts no more.

    Raises:
        FabricError: JetStream does not answer; the claim goes by itself, after its time.
    """
    if claim is None:
        return
    for stream, subject in (  # in the order in which a task wanders, so that it is not missed in between
        (LATER, subjects.later(agent, "once", task_id)),
        (LATER, subjects.later(agent, "due", task_id)),
        (TASKS, subjects.task(agent, "*", task_id)),
        (RECORDS, subjects.record(agent, task_id)),
        (RECORDS, subjects.dead(agent, task_id)),
    ):
        await jetstream.ensure(stream)
        found = await jetstream.last(stream, subject)
        if found is None or (stream, found.sequence) == settled:
            continue
        # A parked task and a letter have it among the headers that they keep.
        if found.headers.get(Header.CLAIM) == claim or claim.encode() in found.body.encoded():
            return
    await Claims(jetstream).drop(claim)
