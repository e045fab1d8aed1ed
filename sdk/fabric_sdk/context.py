"""What a handler sees of the call it serves.

Above: authors' functions. Below: the worker, which fills it. It knows no broker: what leaves the handler before
its answer (progress, log lines) goes through one `emit` function.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fabric_sdk.client import Fabric
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.scope import Scope, Trace

LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

Emit = Callable[[str, str, dict[str, Any]], Awaitable[None]]
"""Sends one frame ahead of an answer: the answer's subject, the kind (`progress`, `log`) and the JSON object."""


async def _nowhere(reply: str, kind: str, frame: dict[str, Any]) -> None:
    """For a context outside a worker."""


class Context:
    """One call, from inside its handler. Annotate a parameter of a tool with `Context` to receive it."""

    __slots__ = ("_emit", "_fabric", "_progress", "_reply", "agent", "cancelled", "instance", "key", "scope")

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
    ) -> None:
        self.scope = scope
        """Deadline, principal and trace; calls made from inside the handler inherit it."""
        self.agent = agent
        self.instance = instance
        self.key = key
        """The caller's idempotency key: the same for every attempt of the same call."""
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
        """Tell the caller how far the work is. Values that do not grow are dropped, as MCP demands."""
        if progress <= self._progress:
            return
        self._progress = progress
        frame: dict[str, Any] = {"progress": progress}
        if total is not None:
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
