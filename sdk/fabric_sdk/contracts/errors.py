"""Every error of the fabric, with one root.

A class's docstring is its default message; `fix` says what to do next; `code` is the JSON-RPC error code on the
wire (docs/wire.md lists them); `retryable` says whether the same call may succeed later; `started` says whether
a handler may have begun the work: `False` makes a repeat safe for any tool.

Above: everything. Below: nothing. This module knows no transport and no MCP library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class FabricError(Exception):
    """The fabric failed."""

    code: int = -32603
    retryable: ClassVar[bool] = False
    started: ClassVar[bool] = True

    def __init__(self, message: str | None = None, *, fix: str | None = None, data: Any = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.fix = fix
        self.data = data
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


# Refused before any work began: a repeat is safe whatever the tool does.


class TransportUnavailable(FabricError):
    """The broker cannot be reached."""

    code = 5031
    retryable = True
    started = False


class TransportClosed(TransportUnavailable):
    """The connection was closed on this side."""

    retryable = False


class AgentUnavailable(FabricError):
    """No instance of this agent is taking calls."""

    code = 5030
    retryable = True
    started = False


class Overloaded(FabricError):
    """The instance has as many calls waiting as it accepts."""

    code = 4290
    retryable = True
    started = False


class QueueFull(Overloaded):
    """The queue is full; try again later."""


class UnknownAgent(FabricError):
    """There is no agent of this name."""

    code = -32602
    started = False


class UnknownMethod(FabricError):
    """The agent does not serve this method."""

    code = -32601
    started = False


class UnknownName(FabricError):
    """The agent has no tool, prompt or resource of this name."""

    code = -32602
    started = False


class InvalidParams(FabricError):
    """The parameters do not fit the method."""

    code = -32602
    started = False


class KeyReused(InvalidParams):
    """The key names a task that was started with something else."""

    code = 4220


class MessageTooLarge(FabricError):
    """The message is larger than the broker accepts."""

    code = 4130
    started = False


class CapabilityMissing(FabricError):
    """Whoever called cannot be asked what the agent wants to know."""

    code = -32021


class AnswerRequired(FabricError):
    """The agent asks something before it goes on, and nobody here answers."""

    code = 4280


class QuestionLost(FabricError):
    """The handler that asked is gone, with its worker or since nobody answered in time."""

    code = 4100


# The work may have begun: a repeat is safe only for what its author marked read-only or idempotent.


class DeadlineExceeded(FabricError):
    """Timeout: the deadline passed before the answer came."""

    code = 5040


class WorkerLost(FabricError):
    """The worker that took the call fell silent; whether it finished is unknown."""

    code = 5020
    retryable = True


class CallCancelled(FabricError):
    """The caller cancelled the call."""

    code = 4990


class HandlerFailed(FabricError):
    """The handler failed."""


class ToolError(FabricError):
    """The tool reported an error.

    Authors raise it to answer the caller in words of their own; callers get it when a tool's result is an error,
    with the MCP content blocks in `data`.
    """


class Retry(HandlerFailed):
    """The task is to be tried again.

    Authors raise it in a tool that runs as a task: `after` seconds, at once with 0, or when its policy says. In a call
    it is an error like any other.
    """

    def __init__(
        self, message: str | None = None, *, after: float | None = None, fix: str | None = None, data: Any = None
    ) -> None:
        super().__init__(message, fix=fix, data=data)
        self.after = None if after is None else float(after)  # what is no number is told to whoever raises it


class Reject(HandlerFailed):
    """The task cannot be done.

    Authors raise it in a tool that runs as a task, to have it put with the dead letters without another attempt.
    """


class HandlerRaised(HandlerFailed):
    """The handler raised what is no error of the fabric."""

    kinds: Sequence[str] = ()
    """The names of what was raised, and of all it is a kind of."""

    @staticmethod
    def of(raised: BaseException) -> HandlerRaised:
        """This error for what a handler raised."""
        error = HandlerRaised(f"{type(raised).__name__}: {raised}")
        error.__cause__ = raised
        error.kinds = [kind.__name__ for kind in type(raised).__mro__]
        return error


class UnencodableResult(HandlerFailed):
    """The handler returned something that has no JSON form."""


class StreamLost(FabricError):
    """The other end of the stream fell silent."""

    code = 5021


class StreamClosed(FabricError):
    """The stream was ended."""


# How a task ended, if not with a result; its handle raises them.


class UnknownTask(FabricError):
    """There is no such task, or its end is no longer on record."""

    code = -32602
    started = False


class UnreadableRecord(FabricError):
    """What is on record of this task is none of ours."""


class TaskDead(FabricError):
    """The task failed for good and was put with the dead letters; `data` holds the error of each attempt."""


class TaskCancelled(CallCancelled):
    """The task was cancelled."""


class TaskExpired(DeadlineExceeded):
    """The task expired before a worker began it."""


# What a person set up wrongly; the command line prints these without a traceback.


class ConfigurationError(FabricError):
    """The configuration is not usable."""


_BY_CODE: dict[int, type[FabricError]] = {
    kind.code: kind
    for kind in (
        TransportUnavailable,
        AgentUnavailable,
        Overloaded,
        UnknownMethod,
        InvalidParams,
        KeyReused,
        MessageTooLarge,
        CapabilityMissing,
        AnswerRequired,
        QuestionLost,
        DeadlineExceeded,
        WorkerLost,
        CallCancelled,
        HandlerFailed,
        StreamLost,
    )
}


def to_wire(error: FabricError) -> dict[str, Any]:
    """The JSON-RPC error object of `error`: `code`, `message`, and `data` where there is any."""
    message = str(error).encode(errors="replace").decode()  # it may quote what is no text
    wire: dict[str, Any] = {"code": error.code, "message": message}
    if error.data is not None:
        wire["data"] = error.data
    return wire


def from_wire(wire: dict[str, Any]) -> FabricError:
    """The error that a JSON-RPC error object stands for; an unknown code becomes `HandlerFailed` and keeps its code."""
    code: Any = wire.get("code")
    if not isinstance(code, int):
        code = HandlerFailed.code
    error = _BY_CODE.get(code, HandlerFailed)(str(wire.get("message", "")), data=wire.get("data"))
    error.code = code  # a hosted server's own code passes through as it is
    return error
