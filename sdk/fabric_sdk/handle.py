"""A task, seen from whoever started it or knows its id.

Above: the client. Below: `patterns.task`. A handle holds nothing but the id: it may be made anew anywhere, any time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.task import Record
from fabric_sdk.patterns.call import OnFrame
from fabric_sdk.patterns.task import Tasks
from fabric_sdk.results import value_of

OnProgress = Callable[[float, float | None, str | None], None]
"""Hears progress: how far, of how much, in words."""


class Task:
    """One task: how it stands, how it ends."""

    def __init__(self, tasks: Tasks, agent: str, task_id: str, *, joined: bool = False) -> None:
        self.id = subjects.checked_token(task_id)
        self.agent = agent
        self.joined = joined
        """Whether there was one of this key already when it was started, which this is."""
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<Task {self.id} of {self.agent}>"

    @property
    def subject(self) -> str:
        """Where each change of this task is published, as a JSON record: for listeners that are no client of ours."""
        return subjects.told(self.agent, self.id)

    async def status(self) -> Record:
        """How it stands now.

        Raises:
            UnknownTask: there is no such task, or its end is no longer kept.
        """
        return await self._tasks.read(self.agent, self.id)

    async def result(self, *, timeout: float | None = None, on_progress: OnProgress | None = None) -> Any:
        """Its value, once it is there.

        Args:
            timeout: seconds to wait; for ever by default.
            on_progress: hears how far the work is.

        Raises:
            ToolError: the tool reported an error.
            TaskDead, TaskCancelled, TaskExpired: it ended so.
            DeadlineExceeded: it has not ended within `timeout`; it goes on.
            UnknownTask: there is no such task, or its end is no longer kept.
        """
        on_frame = progress_to(on_progress) if on_progress else None
        record = await self._tasks.wait(self.agent, self.id, timeout=timeout, on_frame=on_frame)
        if record.state == "completed":
            return value_of(await self._tasks.result(record))
        if record.state == "cancelled":
            why = f": {record.reason}" if record.reason else ""
            raise errors.TaskCancelled(f"task {self.id} was cancelled{why}")
        if record.state == "expired":
            raise errors.TaskExpired(f"task {self.id} expired before a worker began it")
        last = record.errors[-1]["error"] if record.errors else "no error is on record"
        raise errors.TaskDead(f"task {self.id} failed for good: {last}", data=record.errors)

    async def changes(self) -> AsyncGenerator[Record]:
        """How it stands now, and each change until its end."""
        async with self._tasks.watch(self.agent, self.id) as changes:
            async for record in changes:
                yield record

    async def cancel(self) -> Record:
        """End it, unless it has ended; returns how it ended."""
        return await self._tasks.cancel(self.agent, self.id)


def progress_to(listener: OnProgress) -> OnFrame:
    """Hears frames, and tells `listener` of progress."""

    def hear(kind: str, frame: Body) -> None:
        if kind == "progress":
            progress: dict[str, Any] = frame.value()
            listener(progress["progress"], progress.get("total"), progress.get("message"))

    return hear
