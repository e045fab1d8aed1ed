"""The rows of questions and grants, and what follows from an answer.

Above: the agent `approvals`, the gateway. Below: the table, tasks, events. The row is the one authority: it is decided
by compare-and-set, then the task follows, then subscribers are told, then the row says that this is done. Whoever finds
a row that is decided and not settled goes on from there, and each step may be done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from fabric.approvals.model import Answer, Approval, Grant, answered, expired, grant_of, joins
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import InvalidParams, UnknownName, UnknownTask
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.jetstream import Row, StoredMessage, Table, WrongSequence

QUESTIONS: Final = subjects.access("approval")
"""What the subjects of questions begin with; their keys follow."""
GRANTS: Final = subjects.access("grant")
AGENT: Final = "approvals"
WAITING: Final = "approvals://waiting"
"""The resource that changes with every question."""

_KEPT: Final = 86_400.0
"""Seconds for which a question is kept once it is decided: no longer than the end of its task."""
_ON_THE_WAY: Final = 60.0
"""Seconds after which a task that is not held by then never will be: the gateway that asked is gone."""
_KNOWN_AGAIN: Final = 100.0
"""Seconds for which the server knows an event again, less what clocks may differ: told twice, it is heard once."""
_LISTED: Final = "`fabric approvals list` lists those there are"

M = TypeVar("M", bound=BaseModel)


class Approvals:
    """Puts questions and takes answers. It holds nothing itself: what it reads is what the broker has."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._jetstream = fabric.jetstream
        self._questions = Table(fabric.jetstream, ACCESS, QUESTIONS)
        self._grants = Table(fabric.jetstream, ACCESS, GRANTS)

    async def put(self, fresh: Approval) -> Approval:
        """Put a question, unless there is one like it to join; returns that which stands now."""
        while True:
            row, there = await self._read(fresh.key)
            if there is not None and joins(there, time.time()):
                return there
            try:
                await self._write(fresh, row)
                return fresh
            except WrongSequence:
                continue  # the same call came to another gateway

    async def show(self, approval_id: str) -> Approval:
        """A question.

        Raises:
            UnknownName: there is none of this id.
        """
        return (await self._there(approval_id))[1]

    async def all(self) -> list[Approval]:
        """Every question that is kept, the one that changed last at the end."""
        return await self._every(QUESTIONS, Approval)

    async def answer(
        self, approval_id: str, answer: Answer, by: str, *, reason: str = "", remember: bool = False
    ) -> Approval:
        """Decide a question; the same again changes nothing.

        Raises:
            UnknownName: there is none of this id.
            InvalidParams: it has another answer, or expired.
        """
        now = time.time()
        return await self._change(
            approval_id, lambda there: answered(there, answer, by, now, reason=reason, remember=remember)
        )

    async def expire(self, approval_id: str) -> Approval:
        """Decide a question that nobody answered in time."""
        return await self._change(approval_id, lambda there: expired(there, time.time()))

    async def heard(self, approval_id: str) -> None:
        """Note that whoever asked knows what came of it."""
        await self._change(approval_id, lambda there: there.model_copy(update={"heard": True}))

    async def withdraw(self, approval: Approval) -> None:
        """Forget a question whose task was ended by whoever started it."""
        row, there = await self._read(approval.key)
        if row is not None and there == approval:
            await self._questions.remove(approval.key, expected=row.sequence)

    async def settle(self, approval: Approval) -> Approval:
        """Do what follows from a decision, and note that.

        Raises:
            UnknownTask: the gateway that asked has not held the task yet.
        """
        if approval.settled or approval.state == "waiting":
            return approval
        if approval.state == "granted" and approval.remember:
            grant = grant_of(approval)
            await self._grants.put(grant.id, grant.model_dump(mode="json"), seconds=grant.expires - time.time())
        try:
            await self._let_task(approval)
        except UnknownTask:
            if time.time() < approval.asked + _ON_THE_WAY:
                raise
        await self.tell(approval)
        return await self._change(approval.id, lambda there: there.model_copy(update={"settled": True}))

    async def _let_task(self, approval: Approval) -> None:
        """Have the task go on, or end."""
        if approval.task and approval.state == "granted":
            await self._fabric.tasks.release(approval.agent, approval.task)
        elif approval.task:
            await self._fabric.tasks.cancel(approval.agent, approval.task, reason=approval.words)

    async def tell(self, approval: Approval) -> None:
        """Tell subscribers how a question stands; told twice, they hear it once."""
        if approval.state == "waiting" and time.time() > approval.asked + _KNOWN_AGAIN:
            return
        topic = "asked" if approval.state == "waiting" else approval.state
        await self._fabric.publish(f"approvals.{topic}", approval.summary(), id=f"{approval.id}.{topic}")
        await self._fabric.transport.publish(Message(subjects.changed(AGENT), Body({"resource": WAITING})))

    async def grants(self) -> list[Grant]:
        """Every grant that is remembered, the oldest first."""
        return await self._every(GRANTS, Grant)

    async def revoke(self, grant_id: str) -> Grant:
        """Forget a grant; tells what it allowed.

        Raises:
            UnknownName: there is none of this id.
        """
        row = await self._last(GRANTS, grant_id)
        if row is None or (grant := _model(row, Grant)) is None:
            raise UnknownName(f"there is no grant {grant_id!r}", fix="`fabric approvals grants` lists those there are")
        await self._grants.remove(grant_id, expected=row.sequence)
        return grant

    async def _change(self, approval_id: str, change: Callable[[Approval], Approval]) -> Approval:
        while True:
            row, there = await self._there(approval_id)
            if (new := change(there)) == there:
                return there
            try:
                await self._write(new, row)
                return new
            except WrongSequence:
                continue

    async def _write(self, approval: Approval, over: StoredMessage | None) -> None:
        seconds = max(approval.expires, approval.decided) + _KEPT - time.time()
        value = approval.model_dump(mode="json")
        await self._questions.put(approval.key, value, expected=over.sequence if over else 0, seconds=seconds)

    async def _there(self, approval_id: str) -> tuple[StoredMessage | None, Approval]:
        row, there = await self._read(_key(approval_id))
        if there is None or there.id != approval_id:
            raise UnknownName(f"there is no approval {approval_id!r}", fix=_LISTED)
        return row, there

    async def _read(self, key: str) -> tuple[StoredMessage | None, Approval | None]:
        row = await self._last(QUESTIONS, key)
        return row, _model(row, Approval) if row is not None else None

    async def _last(self, prefix: str, key: str) -> StoredMessage | None:
        await self._jetstream.ensure(ACCESS)
        return await self._jetstream.last(ACCESS, prefix + key)

    async def _every(self, prefix: str, kind: type[M]) -> list[M]:
        await self._jetstream.ensure(ACCESS)
        rows = self._jetstream.every(ACCESS, f"{prefix}*")
        return [each async for row in rows if (each := _model(row, kind)) is not None]


def approval_in(row: Row) -> Approval | None:
    """The question that a row of the table says, if it says one."""
    return _validated(row.value, Approval)


def _key(approval_id: str) -> str:
    key, dash, _ = approval_id.partition("-")
    if not dash or not key.isalnum() or not key.isascii():
        raise InvalidParams(f"{approval_id!r} is no approval's id", fix=_LISTED)
    return key


def _model(row: StoredMessage, kind: type[M]) -> M | None:
    try:
        return _validated(row.body.value(), kind) if row.body.encoded() else None  # or it was removed
    except ValueError:
        return None


def _validated(value: Any, kind: type[M]) -> M | None:
    try:
        return kind.model_validate(value)
    except ValueError:
        return None
