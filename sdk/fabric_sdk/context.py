"""What a handler sees of the call it serves.

Above: authors' functions. Below: the worker, which fills it. It knows no broker: what leaves the handler before
its answer (progress, log lines) goes through one `emit` function.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar

from fabric_sdk.client import Fabric
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.scope import Scope, Trace

T = TypeVar("T")

LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

Emit = Callable[[str, str, dict[str, Any]], Awaitable[None]]
"""Sends one frame ahead of an answer: the answer's subject, the kind (`progress`, `log`) and the JSON object."""


async def _nowhere(reply: str, kind: str, frame: dict[str, Any]) -> None:
    """For a context outside a worker."""


class TaskAttempt(Protocol):
    """One attempt at a task, from inside its handler."""

    @property
    def id(self) -> str:
        """The task's id: the same for every attempt."""
        ...

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        ...

    @property
    def token(self) -> int:
        """A number that grows with each attempt.

        An outside system that remembers the highest one it saw, and refuses lower ones, is safe from an attempt that
        was given up and goes on nevertheless.
        """
        ...

    @property
    def saved(self) -> Any:
        """What the last `checkpoint` of any attempt saved; `None` if there is none."""
        ...

    async def beat(self) -> None:
        """Say that the work goes on."""
        ...

    async def save(self, state: Any) -> None:
        """Keep `state` for the next attempt."""
        ...

    async def once(self, step: str, do: Callable[[], Any]) -> Any:
        """Do it unless an earlier attempt did, and keep what it returned."""
        ...


class Context:
    """One call, from inside its handler. Annotate a parameter of a tool with `Context` to receive it."""

    __slots__ = ("_emit", "_fabric", "_progress", "_reply", "agent", "cancelled", "instance", "key", "scope", "task")

    def __init__(
        self,
        scope: Scope,
        *,
        agent: str = "",
        instance: str = "",
        key: str | None = None,
        fabric: Fabric | None = None,
        reply: str = "",
        emit: Emit = _nowhere,
        task: TaskAttempt | None = None,
    ) -> None:
        self.scope = scope
        """Deadline, principal and trace; calls made from inside the handler inherit it."""
        self.agent = agent
        self.instance = instance
        self.key = key
        """The caller's idempotency key: the same for every attempt of the same call."""
        self.task = task
        """The attempt at a task that this is, or `None` in a call."""
        self._fabric = fabric
        self.cancelled = False
        """Set when the caller gave up. Coroutines are cancelled as well; a function in a thread looks here."""
        self._reply = reply
        self._emit = emit
        self._progress = float("-inf")

    @property
    def fabric(self) -> Fabric:
        """For calls to other agents, on behalf of this one.

        Raises:
            ConfigurationError: this context was made outside a worker.
        """
        if self._fabric is None:
            raise ConfigurationError("there is no fabric outside a worker", fix="run the agent with `fabric worker`")
        return self._fabric

    @property
    def deadline(self) -> float:
        """When the caller stops waiting: Unix time in seconds."""
        return self.scope.deadline

    @property
    def principal(self) -> str | None:
        """Who asks, as verified at the edge, or `None` for a caller inside the fabric."""
        return self.scope.principal

    @property
    def trace(self) -> Trace | None:
        """The W3C trace context that came with the call."""
        return self.scope.trace

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.deadline - time.time()

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Tell the caller how far the work is. MCP allows only finite values that grow; others are dropped."""
        if progress <= self._progress or not math.isfinite(progress):
            return
        self._progress = progress
        frame: dict[str, Any] = {"progress": progress}
        if total is not None and math.isfinite(total):
            frame["total"] = total
        if message is not None:
            frame["message"] = message
        await self._emit(self._reply, "progress", frame)

    async def log(self, level: LogLevel, data: Any, *, logger: str | None = None) -> None:
        """Send the caller a log entry; `data` is any JSON value. The worker's own log is `logging`'s business."""
        await self._emit(self._reply, "log", {"level": level, "data": data, "logger": logger or self.agent})

    async def debug(self, data: Any) -> None:
        """`log` at level `debug`."""
        await self.log("debug", data)

    async def info(self, data: Any) -> None:
        """`log` at level `info`."""
        await self.log("info", data)

    async def warning(self, data: Any) -> None:
        """`log` at level `warning`."""
        await self.log("warning", data)

    async def error(self, data: Any) -> None:
        """`log` at level `error`."""
        await self.log("error", data)

    # what only a task has a place for; in a call, the same function runs all the same

    @property
    def saved(self) -> Any:
        """The state that the last `checkpoint` kept, whichever attempt it was; `None` if there is none."""
        return self.task.saved if self.task else None

    async def checkpoint(self, state: Any) -> None:
        """Keep `state`, any JSON value: an attempt after this one begins with it in `saved`. Nothing in a call."""
        if self.task:
            await self.task.save(state)

    async def once(self, step: str, do: Callable[[], Awaitable[T] | T]) -> T:
        """Do `step` unless an earlier attempt at this task did; either way, what it returned.

        What it returns is kept with the task, so it is a JSON value. A step that an attempt was killed in, before it
        was kept, is done again: give outside systems `key` and `task.token` to know it by. In a call it is just done.
        """
        if self.task:
            return await self.task.once(step, do)
        done: Any = do()
        return await done if inspect.isawaitable(done) else done

    async def heartbeat(self) -> None:
        """Say that the work goes on, for a tool whose policy allows only so much silence. Nothing in a call."""
        if self.task:
            await self.task.beat()
