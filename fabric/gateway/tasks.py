"""MCP's tasks (the extension `io.modelcontextprotocol/tasks`): a call becomes a durable task, and is asked for later.

Above: `modern`, `rest`, `errands`, `approving`, `listening`. Below: the fabric's own tasks; nothing is kept here, so
any gateway answers for any task.

A task's id names its agent, and what nobody can guess. Whoever did not start a task is told that there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson
from mcp_types.jsonrpc import MISSING_REQUIRED_CLIENT_CAPABILITY

from fabric.gateway import rpc
from fabric.gateway.asking import check_answers
from fabric.gateway.forward import Asker, own_params
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.view import Route
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.subjects import checked_agent_name
from fabric_sdk.contracts.task import Priority, Record
from fabric_sdk.patterns.start import Start
from fabric_sdk.patterns.task import Tasks

EXTENSION: Final = "io.modelcontextprotocol/tasks"
CHANGED: Final = "notifications/tasks"
NAMED: Final = dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId")
"""The extension's methods, and the member of params that says which task."""

_POLL_MS: Final = 1000
_STATUS: Final = {
    "held": "working",
    "queued": "working",
    "running": "working",
    "dead": "failed",
    "expired": "failed",
}
"""MCP's word for a task's state, where it is another."""


class McpTasks:
    """The fabric's tasks, as MCP clients see them."""

    def __init__(self, tasks: Tasks, *, server: dict[str, Any]) -> None:
        self._tasks = tasks
        self._stamp = {"_meta": {"io.modelcontextprotocol/serverInfo": server}}

    def wanted(self, route: Route, params: Params) -> bool:
        """Whether this call is to become a task.

        Raises:
            Refusal: it can be nothing else, and its client knows no tasks.
        """
        policy = route.policy
        if policy is None or policy.mcp == "never":
            return False
        if not declared(params):
            check_may_be_call(route)
            return False
        return not policy.asks_first or params.input_responses is not rpc.UNSET

    async def start(self, named: str, route: Route, params: bytes, asker: Asker) -> Body:
        """Make a call a task; it can be asked for as soon as this returns."""
        return self._result("task", await self.begin(named, route, params, asker))

    async def begin(
        self,
        named: str,
        route: Route,
        params: bytes,
        asker: Asker,
        *,
        priority: Priority = "normal",
        delay: float = 0.0,
    ) -> dict[str, Any]:
        """Start a task, `delay` seconds from now, or join the one that the asker's key names; returns how it stands.

        Raises:
            Refusal: see `params_of`.
            QueueFull, TransportUnavailable: see `patterns.task.Tasks.start`.
        """
        assert route.policy is not None
        now = time.time()
        start = Start(
            agent=route.agent,
            params=params_of(named, route, params),
            scope=scope_for(route.policy.timeout, principal=asker.principal, trace=asker.trace),
            key=asker.key,
            priority=priority,
            at=now + delay if delay else None,
        )
        if await self._tasks.start(start):
            return shown(Record(start.id, start.agent, queued=now, changed=now, keep=start.keep), now)
        return shown(await self._tasks.read(start.agent, start.id), now)

    async def look(self, task_id: Any, principal: str | None) -> dict[str, Any]:
        """How a task that `principal` started stands, and what it led to.

        Raises:
            Refusal: it has none of this id.
        """
        record = await self._mine(task_id, principal)
        return {**shown(record, time.time()), **await self._outcome(record)}

    async def cancel(self, task_id: Any, principal: str | None) -> dict[str, Any]:
        """End a task that `principal` started; returns how it ended, which may have been before.

        Raises:
            Refusal: it has none of this id.
        """
        record = await self._mine(task_id, principal)
        return shown(await self._tasks.cancel(record.agent, record.id), time.time())

    def created(self, record: Record) -> Body:
        """A task in the place of a call's result."""
        return self._result("task", shown(record, record.changed))

    async def answer(self, method: str, params: Params, asker: Asker) -> Body:
        """Answer one of the extension's methods.

        Raises:
            Refusal: the client knows no tasks, or it has none of this id.
        """
        if not declared(params):
            raise _undeclared(f"{method!r} is of the tasks extension")
        if method == "tasks/get":
            return self._result("complete", await self.look(params.task_id, asker.principal))
        if method == "tasks/update":
            record = await self._mine(params.task_id, asker.principal)
            answers = rpc.value_of(params.input_responses)
            if not isinstance(answers, dict):
                raise Refusal(rpc.INVALID_PARAMS, "params.inputResponses must be an object")
            answers = cast("dict[str, Any]", answers)
            requests = record.parked["requests"] if record.parked else {}
            check_answers({key: str(each.get("method")) for key, each in requests.items()}, answers)
            await self._tasks.answer(record.agent, record.id, answers)
        else:
            await self.cancel(params.task_id, asker.principal)
        return self._result("complete", {})

    async def watch(self, task_id: str, principal: str | None, tell: Callable[[str, dict[str, Any]], None]) -> None:
        """Tell of each change of a task that `principal` started; nothing, if there is none."""
        try:
            record = await self._mine(task_id, principal)
            async with self._tasks.watch(record.agent, record.id) as changes:
                async for change in changes:
                    tell(CHANGED, {**shown(change, time.time()), **await self._outcome(change)})
        except (Refusal, errors.FabricError):
            return  # it learns by asking

    async def _mine(self, task_id: Any, principal: str | None) -> Record:
        """The record of a task that `principal` started."""
        if not isinstance(task_id, str):
            raise Refusal(rpc.INVALID_PARAMS, "params.taskId must be a string")
        agent, _, own_id = task_id.partition(".")
        try:
            record = await self._tasks.read(checked_agent_name(agent), own_id)
        except (errors.UnknownTask, errors.ConfigurationError):
            record = None
        if record is None or record.principal != principal:
            raise Refusal(rpc.INVALID_PARAMS, "there is no such task, or its end is no longer kept")
        return record

    async def _outcome(self, record: Record) -> dict[str, Any]:
        """What a task led to so far: its result, its error, or questions."""
        if record.state != "completed":
            return outcome(record)
        try:
            return {"result": orjson.Fragment((await self._tasks.result(record)).encoded())}
        except errors.FabricError as lost:
            raise Refusal(lost.code, str(lost)) from lost

    def _result(self, kind: str, members: dict[str, Any]) -> Body:
        return Body({**members, "resultType": kind, **self._stamp})


def params_of(named: str, route: Route, params: bytes) -> Body:
    """The params of a task. Others than its handler read them, too: whoever compares, traces, or has to allow it.

    Raises:
        Refusal: they are JSON that not everybody can read, such as a number larger than any double.
    """
    own = Body(encoded=own_params("tools/call", named, route, params))
    try:
        own.members()
    except ValueError as unfit:
        raise Refusal(rpc.INVALID_PARAMS, f"the arguments cannot be kept: {unfit}") from None
    return own


def check_may_be_call(route: Route) -> None:
    """See that a client which knows no tasks may call this.

    Raises:
        Refusal: it is a tool that runs only as a task.
    """
    if route.policy is not None and route.policy.mcp == "required":
        raise _undeclared("this tool runs only as a task")


def shown(record: Record, now: float) -> dict[str, Any]:
    """How a task stands, in MCP's words, without what it led to."""
    # Its end is kept for so long, whenever that is: until then, the time it may be asked for grows with its age.
    kept_until = (record.changed if record.ended else now) + record.keep
    task: dict[str, Any] = {
        "taskId": f"{record.agent}.{record.id}",
        "status": _status(record),
        "createdAt": _moment(record.queued),
        "lastUpdatedAt": _moment(record.changed),
        "ttlMs": int((kept_until - record.queued) * 1000),
    }
    if not record.ended:
        task["pollIntervalMs"] = _POLL_MS
    if record.state == "held":
        task["statusMessage"] = record.reason
    if record.state == "running" and record.progress and (words := record.progress.get("message")):
        task["statusMessage"] = words
    return task


def _status(record: Record) -> str:
    if record.state == "cancelled" and record.reason:  # not by who started it, so that is to be told why
        return "failed"
    return _STATUS.get(record.state, record.state)


def outcome(record: Record) -> dict[str, Any]:
    """What a task led to so far, but for its result: its error, or questions."""
    if record.state == "expired":
        return {"error": errors.to_wire(errors.TaskExpired())}
    if record.state == "cancelled" and record.reason:
        return {"error": {"code": rpc.FORBIDDEN, "message": record.reason}}
    if record.state == "dead":
        last: dict[str, Any] = record.errors[-1] if record.errors else {}
        message = last.get("error") or "the task failed for good"
        return {"error": {"code": last.get("code", errors.TaskDead.code), "message": message}}
    if record.state == "input_required" and record.parked is not None:
        return {"inputRequests": record.parked["requests"]}
    return {}


def declared(params: Params) -> bool:
    """Whether the client said, with this very request, that it knows tasks."""
    capabilities = None if params.meta is rpc.UNSET else rpc.value_of(params.meta.capabilities)
    extensions: Any = cast("dict[str, Any]", capabilities).get("extensions") if isinstance(capabilities, dict) else None
    return isinstance(extensions, dict) and isinstance(cast("dict[str, Any]", extensions).get(EXTENSION), dict)


def _undeclared(why: str) -> Refusal:
    data: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    message = f"{why}: the client must declare the extension {EXTENSION} in its capabilities"
    return Refusal(MISSING_REQUIRED_CLIENT_CAPABILITY, message, data=data)


def _moment(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
