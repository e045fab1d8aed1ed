"""Dead letters: tasks that failed for good, kept until somebody decides.

Guarantee: **nothing that died is forgotten** before its letter is purged or a month has passed. A redriven task is the
same task, under the same id and key, with its history.

Above: `client`, the platform's own agents. Below: JetStream. The letter lies beside the task's record, and was written
together with its end (`attempt.bury`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import RECORDS, TASKS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import Priority, Record, priority_of
from fabric_sdk.jetstream import JetStream, StoredMessage, SubjectTaken
from fabric_sdk.patterns.leftover import drop_leftover

_HEADER: Final = re.compile(r"[A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One task that failed for good."""

    id: str
    agent: str
    tool: str
    priority: Priority
    died: float
    """Unix time in seconds."""
    errors: list[dict[str, Any]]
    """Of each attempt: `attempt`, `error`, `instance`, `at` (Unix time), `trace` (W3C traceparent)."""
    headers: dict[str, str]
    """Key, principal and trace, as they came with it."""
    params: Any
    """Of `tools/call`."""
    sequence: int
    """Its place in the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which letters are meant."""

    agent: str = "*"
    tool: str | None = None
    error: str | None = None
    """Part of the last attempt's error, in any case of letters."""
    before: float | None = None
    """Unix time in seconds."""
    through: int | None = None
    """The last place in the stream that is looked at."""

    def matches(self, letter: DeadLetter) -> bool:
        """Whether `letter` is meant."""
        last = str(letter.errors[-1].get("error", "")) if letter.errors else ""
        return (
            (self.tool is None or letter.tool == self.tool)
            and (self.error is None or self.error.lower() in last.lower())
            and (self.before is None or letter.died < self.before)
            and (self.through is None or letter.sequence <= self.through)
        )


class DeadLetters:
    """Lists, shows, redrives and purges them."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    async def find(self, which: Which, *, after: int = 0) -> AsyncGenerator[DeadLetter]:
        """All that are meant and are there now, oldest first; those `after` a place alone."""
        await self._jetstream.ensure(RECORDS)
        async for message in self._jetstream.every(RECORDS, subjects.dead(which.agent, "*"), after=after):
            if (letter := _letter_of(message)) is not None and which.matches(letter):
                yield letter

    async def show(self, task_id: str) -> DeadLetter:
        """The letter of this task.

        Raises:
            UnknownTask: there is none.
        """
        await self._jetstream.ensure(RECORDS)
        found = await self._jetstream.last(RECORDS, subjects.dead("*", subjects.checked_token(task_id)))
        letter = _letter_of(found) if found else None
        if letter is None:
            raise errors.UnknownTask(f"there is no dead letter of a task {task_id!r}")
        return letter

    async def redrive(self, letter: DeadLetter) -> bool:
        """Try this task again, as the same task; tell whether it is being tried, and was not already.

        Raises:
            UnreadableRecord: what is on record of it is none of ours; the letter stays.
            QueueFull: the queue takes no more; the letter stays.
        """
        await self._jetstream.ensure(TASKS)
        kept = await self._jetstream.last(RECORDS, subjects.record(letter.agent, letter.id))
        dead = kept is not None and Record.of(kept.subject, kept.body).state == "dead"
        if dead:
            again = f"{letter.id}-{letter.sequence}"  # redriven from two places at once, it is one message
            headers = {**letter.headers, Header.REDRIVE: "1", Header.MESSAGE_ID: again}
            subject = subjects.task(letter.agent, letter.priority, letter.id)
            try:
                dead = not (await self._jetstream.store(subject, Body(letter.params), headers)).duplicate
            except SubjectTaken:
                dead = False
        # By its own place, since the task may have died once more by now.
        await self._jetstream.delete(RECORDS, letter.sequence)
        return dead

    async def purge(self, letter: DeadLetter) -> bool:
        """Forget this letter; tell whether it was there. The task stays dead for whoever asks."""
        gone = await self._jetstream.delete(RECORDS, letter.sequence)
        await drop_leftover(self._jetstream, letter.agent, letter.id, letter.headers.get(Header.CLAIM))
        return gone


def _letter_of(message: StoredMessage) -> DeadLetter | None:
    try:
        said = message.body.members()
        agent, task_id = subjects.task_of(message.subject)
        headers = dict(said.get("headers", {}))
        return DeadLetter(
            id=task_id,
            agent=agent,
            tool=str(said.get("tool", "")),
            priority=priority_of(said.get("priority")),
            died=float(said["died"]),
            errors=[dict(each) for each in said.get("errors", [])],
            headers={name: value for name, value in headers.items() if _travels(name, value)},
            params=said.get("params"),
            sequence=message.sequence,
        )
    except (ValueError, KeyError, TypeError):
        return None  # not written by us


def _travels(name: str, value: Any) -> bool:
    """Whether this is a header that a message can have."""
    return isinstance(value, str) and _HEADER.fullmatch(name) is not None
