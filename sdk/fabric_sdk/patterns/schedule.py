"""Schedules: tasks that are started again and again, by the server's own clock.

Guarantee: **at most one task for each firing**, through restarts of everything. A firing that nobody was there to take
is made up for once, not as often as it was missed.

Above: `client`, the platform's own agents. Below: JetStream's message schedules: the server turns the one stored
message into one that is due; whichever worker of the agent gets that puts the task into the queue (`becoming_due`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import stated
from fabric_sdk.contracts.scope import Scope
from fabric_sdk.contracts.streams import LATER
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import PRIORITIES, Priority, priority_of
from fabric_sdk.jetstream import JetStream, Refused, StoredMessage

_EVERY: Final = "@every "
_AT: Final = "@at "
_SCHEDULE_FIX: Final = (
    "write `every 90s` (a second at least), a cron expression, or `@daily`; a zone like Europe/Rome, for cron alone; "
    "what is to be done once, at a time, is a task: `start(…, at=…)`"
)
_NO_SCHEDULE: Final = 10189
_NO_ZONE: Final = 10223
"""JetStream's own numbers for an expression, and a zone, that are none."""
_FIVE_FIELDS: Final = re.compile(r"\S+(?:\s+\S+){4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One schedule, or one task that waits for its time."""

    agent: str
    name: str
    """A schedule's own; of a task that waits, its id."""
    when: str
    """`every 90s`, a cron expression, or a time (RFC 3339)."""
    again: bool = True
    """Whether it fires more than once."""
    zone: str | None = None
    """The time zone of a cron expression; UTC if there is none."""
    priority: Priority = "normal"
    tool: str = ""
    arguments: dict[str, Any] | None = None
    stored: float = field(default=0.0, compare=False)
    """When it was set: Unix time in seconds."""


class Schedules:
    """Sets, lists and removes schedules."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    async def set(self, schedule: Schedule, scope: Scope, *, keep: float) -> None:
        """Keep this schedule, in place of any other of its name.

        Raises:
            InvalidParams: the name, the expression, the zone or the arguments are not usable.
            TransportUnavailable: the broker did not answer.
        """
        if schedule.priority not in PRIORITIES:
            raise errors.InvalidParams(f"a priority is one of {', '.join(PRIORITIES)}, not {schedule.priority!r}")
        name = _checked(schedule.name)
        pattern = pattern_of(schedule.when)
        # Nothing, JetStream would take for an ordinary message; a time, for a task that is started once.
        if not pattern or pattern.startswith("@at"):
            raise errors.InvalidParams(f"{schedule.when!r} is no schedule", fix=_SCHEDULE_FIX)
        headers = {
            Header.SCHEDULE: pattern,
            Header.SCHEDULE_TARGET: subjects.later(schedule.agent, "due", name),
            Header.CLASS: schedule.priority,
            Header.KEEP: f"{keep:.3f}",
            **scope._replace(trace=None).headers(),  # what it starts for years belongs to no request
        }
        if schedule.zone is not None:
            headers[Header.SCHEDULE_ZONE] = schedule.zone
        params = stated("what the task is given", {"name": schedule.tool, "arguments": schedule.arguments or {}})
        await self._jetstream.ensure(LATER)
        try:
            await self._jetstream.store(subjects.later(schedule.agent, "every", name), params, headers)
        except Refused as refused:
            if refused.err_code == _NO_ZONE and schedule.zone is not None:
                what = f"{schedule.when!r} in zone {schedule.zone!r}"
            elif refused.err_code in (_NO_SCHEDULE, _NO_ZONE):
                what = repr(schedule.when)
            else:
                raise
            raise errors.InvalidParams(f"{what} is no schedule", fix=_SCHEDULE_FIX) from None

    async def find(self, agent: str = "*") -> AsyncGenerator[Schedule]:
        """All schedules of an agent, or of all, and what waits for its time once."""
        await self._jetstream.ensure(LATER)
        for kind in ("every", "once"):
            async for message in self._jetstream.every(LATER, subjects.later(agent, kind, "*")):
                yield _schedule_of(message)

    async def list(self, agent: str = "*") -> list[Schedule]:
        """All that `find` finds."""
        return [schedule async for schedule in self.find(agent)]

    async def remove(self, agent: str, name: str) -> bool:
        """Let a schedule never fire again; tell whether there was one.

        A task that waits for its time is no schedule: it is cancelled, so that its end is on record.
        """
        await self._jetstream.ensure(LATER)
        return await self._jetstream.purge(LATER, subjects.later(agent, "every", _checked(name))) > 0


def pattern_of(when: str) -> str:
    """A schedule in NATS's own words, from ours: `every 90s`, cron of five or six fields, `@daily`."""
    when = when.strip()
    if when.startswith("every "):
        return f"@{when}"
    return f"0 {when}" if _FIVE_FIELDS.fullmatch(when) and not when.startswith("@") else when


def _checked(name: str) -> str:
    try:
        return subjects.checked_token(name)
    except errors.ConfigurationError as wrong:
        raise errors.InvalidParams(f"a schedule cannot be called so: {wrong}") from None


def _schedule_of(message: StoredMessage) -> Schedule:
    *_, agent, kind, name = message.subject.split(".")
    pattern = message.headers.get(Header.SCHEDULE, "")
    if pattern.startswith(_AT):
        when = pattern.removeprefix(_AT)
    elif pattern.startswith(_EVERY):
        when = pattern.removeprefix("@")
    else:
        when = pattern.removeprefix("0 ")
    try:
        params = message.body.members()
    except ValueError:
        params = {}
    return Schedule(
        agent=agent,
        name=name,
        when=when,
        again=kind == "every",
        zone=message.headers.get(Header.SCHEDULE_ZONE),
        priority=priority_of(message.headers.get(Header.CLASS)),
        tool=str(params.get("name", "")),
        arguments=params.get("arguments"),
        stored=message.stored,
    )


def moment(unix: float) -> str:
    """A time as NATS reads it."""
    return datetime.fromtimestamp(unix, UTC).isoformat().replace("+00:00", "Z")
