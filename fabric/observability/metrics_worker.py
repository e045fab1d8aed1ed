"""What a worker counts: each call, task and event that its handler was given, and how much waits.

Above: worker processes, which put `counted` around each handler. Below: `metrics_calls`, the SDK's worker.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final

from fabric.observability.metrics import METRICS, Reading
from fabric.observability.metrics_calls import BREAKERS, OK, Calls, outcome_of
from fabric_sdk.authoring.reaction import MARK
from fabric_sdk.context import Context
from fabric_sdk.contracts.conventions import TOOL_ERROR
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import UnknownName
from fabric_sdk.pipeline import Handler, Request
from fabric_sdk.results import is_error
from fabric_sdk.worker import Worker

CALLS: Final = Calls(METRICS, "fabric_worker_call", "a handler's begin to its end", ("agent", "kind", "method", "tool"))
REPEATED: Final = METRICS.counter("fabric_worker_task_redeliveries", "Attempts at a task after its first.", ("agent",))

_NAMED: Final = frozenset(("tools/call", "prompts/get"))
_NOT_NAMED: Final = frozenset((outcome_of(UnknownName()), "invalid_params", "unknown_method"))


def counted(handler: Handler) -> Handler:
    """The middleware that counts."""

    async def handle(context: Context, request: Request) -> Body:
        outcome, began = OK, perf_counter()
        try:
            result = await handler(context, request)
            if request.method == "tools/call" and _is_error(result):
                outcome = TOOL_ERROR
            return result
        except BaseException as failure:
            outcome = outcome_of(failure)
            raise
        finally:
            _count(context, request.method, began, outcome)

    return handle


def _count(context: Context, method: str, began: float, outcome: str) -> None:
    kind, tool = "call", ""
    if method in _NAMED and outcome not in _NOT_NAMED:  # else the name is one that a caller made up
        tool = str(context.params.get("name", ""))
    if context.task is not None:
        kind = "event" if tool.startswith(MARK) else "task"
        if context.task.attempt > 1:
            REPEATED.of(context.agent).add()
    CALLS.of(context.agent, kind, method, tool).ended(began, outcome, context.scope.trace)


def _is_error(result: Body) -> bool:
    try:
        result.encoded()  # here, so that a result which has no JSON form is counted as what it is
    except (TypeError, ValueError):  # whoever sends it finds out, and says so
        return False
    return is_error(result)


@asynccontextmanager
async def watched(worker: Worker) -> AsyncGenerator[None]:
    """Tell how busy a worker is while the block runs."""

    def busy() -> Reading:
        load, name = worker.load(), worker.description.name
        return [((name, "running"), load.running), ((name, "waiting"), load.waiting)]

    def capacity() -> Reading:
        return [((worker.description.name,), worker.limits.concurrency)]

    stops = [
        METRICS.watch(
            "fabric_worker_in_hand", "Calls and tasks that a worker has taken.", busy, labels=("agent", "state")
        ),
        METRICS.watch(*BREAKERS, lambda: [((agent,), 1) for agent in worker.not_waited_for], labels=("agent",)),
        METRICS.watch("fabric_worker_capacity", "Calls that a worker handles at once.", capacity, labels=("agent",)),
    ]
    REPEATED.of(worker.description.name)
    try:
        yield
    finally:
        for stop in stops:
            stop()
