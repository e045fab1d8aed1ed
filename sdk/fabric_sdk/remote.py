"""One agent, seen from whoever calls it: calls, tasks, streams, broadcasts, and what it says of itself.

Above: the client. Below: the patterns, each with its own guarantee. Results come back as Python values.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypedDict
from uuid import uuid4

from typing_extensions import Unpack

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.asking import CAPABILITIES, NEEDED, Asked
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body, stated
from fabric_sdk.contracts.options import check_options
from fabric_sdk.contracts.scope import current_asker
from fabric_sdk.contracts.subjects import ANYBODY
from fabric_sdk.contracts.task import DEFAULT_KEEP, LONGEST_KEPT, Priority
from fabric_sdk.handle import OnProgress, Task, progress_to
from fabric_sdk.patterns.asking import follow_up
from fabric_sdk.patterns.broadcast import Answer, broadcast
from fabric_sdk.patterns.call import Call, Caller
from fabric_sdk.patterns.schedule import Schedule, Schedules
from fabric_sdk.patterns.start import Start
from fabric_sdk.patterns.stream import OPEN, Channel, Stream
from fabric_sdk.patterns.task import Tasks
from fabric_sdk.results import NativeResult, value_of
from fabric_sdk.routing.retry import is_safe
from fabric_sdk.tracing import scope_here

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds a call may take if its caller does not say."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")


OnAsk = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Answers an MCP request of a tool: its method and params; returns the MCP result."""
_ASKS_ALL: Final[dict[str, Any]] = {capability: {} for capability in NEEDED.values()}


class How(TypedDict, total=False):
    """How a task is started."""

    key: str
    """Names the task: while its end is kept, whoever starts the same with this key again joins it; with other arguments
    the key is refused."""
    priority: Priority
    """`critical`, `high`, `normal` (unless said otherwise) or `low`."""
    delay: float
    """Seconds before which it is not begun."""
    at: datetime | float
    """When it may begin: a time with its zone, or Unix time in seconds."""
    expires: float
    """Seconds after which it is not begun any more, and ends as `expired`."""
    keep: float
    """Seconds for which its end is kept: a day unless said otherwise, and two minutes at least if it has a key."""


class AgentClient:
    """One agent, or whoever has a capability, seen from a caller."""

    def __init__(self, caller: Caller, tasks: Tasks, schedules: Schedules, name: str) -> None:
        self._caller = caller
        self._tasks = tasks
        self._schedules = schedules
        self.name = name

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        key: str | None = None,
        on_progress: OnProgress | None = None,
        on_ask: OnAsk | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a tool and return its value.

        A call inside a handler ends no later than the call being handled. If a worker is lost on the way, the call
        goes to another one when the tool is marked read-only or idempotent, or when `key` is given.

        Args:
            tool: the tool's name.
            arguments: its arguments, by name.
            timeout: seconds.
            key: idempotency key, the same for every repetition of the same piece of work.
            on_progress: hears how far the work is.
            on_ask: answers what the tool asks: takes the MCP request's method and params, and returns its result. In a
                handler, what is asked is passed on to whoever called that, unless said otherwise.
            meta: members of the MCP request's `_meta`.

        Raises:
            ToolError: the tool reported an error.
            AnswerRequired: it asks something, and nobody answers.
            FabricError: the call did not reach a tool or its answer did not come; see `patterns.call`.
        """

        outer = current_asker.get()
        params: dict[str, Any] = {"name": tool, "arguments": arguments or {}}
        if can := _ASKS_ALL if on_ask else outer.capabilities if outer else None:
            meta = {**(meta or {}), CAPABILITIES: can}
        if meta:
            params["_meta"] = meta
        call = Call(
            self.name,
            "tools/call",
            Body(params),
            scope_here(timeout),
            safe=partial(self._is_safe, tool) if key is None else True,
            key=None if key is None else _checked_key(key),
            on_frame=progress_to(on_progress) if on_progress else None,
            target=tool,
        )
        result = await self._caller.call(call)
        answer = on_ask or (outer.ask if outer else None)
        while not isinstance(result, NativeResult) and (asked := Asked.of(result)) is not None:
            if answer is None:
                raise errors.AnswerRequired(f"{tool!r} asks something", fix="pass on_ask", data=asked.requests)
            answers = {key: await answer(each["method"], each["params"]) for key, each in asked.requests.items()}
            result = await follow_up(self._caller, replace(call, scope=scope_here(timeout)), asked, answers)
        return value_of(result)

    async def _is_safe(self, tool: str) -> bool:
        """Whether a tool may be called again; where any of several agents may have been called, whether all say so."""
        offers = await self._everybody() if self.name.startswith(ANYBODY) else [await self.describe()]
        described = [offer.tool(tool) or {} for offer in offers]
        return all(is_safe(each.get("annotations")) for each in described)

    async def _everybody(self) -> list[Description]:
        """What each instance says of its agent.

        Raises:
            FabricError: there is none, or one did not say.
        """
        body, scope = Body({}), scope_here(DEFAULT_TIMEOUT)

        def call_to(instance: str) -> Call:
            return Call(self.name, "fabric/describe", body, scope, safe=True, instance=instance)

        said = await broadcast(self._caller, self.name, call_to)
        for each in said:
            if each.error is not None:
                raise each.error
        return [Description.model_validate(each.body.value()) for each in said if each.body is not None]

    async def start(self, tool: str, arguments: Mapping[str, Any] | None = None, **how: Unpack[How]) -> Task:
        """Start a tool as a task: returns once the fabric has it on the disk.

        It is done even if every process of the fabric dies meanwhile, and tried again as the tool's policy says.

        Args:
            tool: the tool's name.
            arguments: its arguments, by name.
            how: see `How`.

        Raises:
            InvalidParams: a key or a time is not usable, or the arguments have no JSON form.
            KeyReused: the key names a task of another tool, or one with other arguments.
            QueueFull: the queue takes no more; try again later.
            TransportUnavailable: the broker did not answer, and whether it has the task is unknown; started again with
                the same key, it is the same task.
        """
        check_options("AgentClient.start", how, How)
        start = self.plan(tool, arguments, **how)
        fresh = await self._tasks.start(start)
        return Task(self._tasks, self.name, start.id, joined=not fresh and start.key is not None)

    def plan(self, tool: str, arguments: Mapping[str, Any] | None = None, **how: Unpack[How]) -> Start:
        """What `start` would start; for `Fabric.start_all`.

        Raises:
            InvalidParams: a key or a time is not usable, or the arguments have no JSON form.
        """
        check_options("AgentClient.plan", how, How)
        now = time.time()
        key, expires = how.get("key"), how.get("expires")
        return Start(
            agent=self.name,
            params=stated("what the task is given", {"name": tool, "arguments": arguments or {}}),
            scope=scope_here(DEFAULT_TIMEOUT),
            key=None if key is None else _checked_key(key),
            priority=how.get("priority", "normal"),
            at=_moment(how, now),
            expires=None if expires is None else now + _ahead("expires", expires),
            keep=how.get("keep", DEFAULT_KEEP),
        )

    async def schedule(
        self,
        name: str,
        when: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        zone: str | None = None,
        priority: Priority = "normal",
    ) -> None:
        """Start a tool as a task again and again, until `unschedule`; in place of any schedule of this name.

        Args:
            name: the schedule's own: letters, digits, hyphens, underscores.
            when: `every 90s` (`ms`, `s`, `m`, `h`; a second at least), a cron expression of five fields (or six, with
                seconds first), `@hourly`, `@daily` …
            tool: the tool's name.
            arguments: its arguments, by name.
            zone: the time zone of a cron expression, as `Europe/Rome`; UTC by default.
            priority: of the tasks.

        Raises:
            InvalidParams: the name, the expression or the zone is not usable.
        """
        schedule = Schedule(
            agent=self.name,
            name=name,
            when=when,
            zone=zone,
            priority=priority,
            tool=tool,
            arguments=dict(arguments or {}),
        )
        await self._schedules.set(schedule, scope_here(DEFAULT_TIMEOUT), keep=DEFAULT_KEEP)

    async def unschedule(self, name: str) -> bool:
        """Remove a schedule; tell whether there was one of this name."""
        return await self._schedules.remove(self.name, name)

    @asynccontextmanager
    async def open(self, stream: str, arguments: Mapping[str, Any] | None = None) -> AsyncGenerator[Stream]:
        """Open a stream to one instance: `async with agent.open("chat") as stream: await stream.send(…)`.

        Leaving the block ends both directions, and the handler with them. To see the handler through, `end` the stream
        and read until nothing more comes. Leaving it with an exception cancels the stream.

        Args:
            stream: its name.
            arguments: for its handler, by name.

        Raises:
            FabricError: no instance opened it; see `patterns.call`. Reading raises what the handler raised.
        """
        channel = Channel(self._caller.transport, uuid4().hex, "client", "worker")
        await channel.open()
        try:
            params = Body({"name": stream, "arguments": arguments or {}, "stream": channel.id})
            await self._caller.call(Call(self.name, OPEN, params, scope_here(DEFAULT_TIMEOUT), target=stream))
            yield Stream(channel, dict(arguments or {}))
            await channel.leave()
        except BaseException:  # also where the answer did not come: the handler may run
            await channel.cancel()
            raise
        finally:
            await channel.close()

    async def broadcast(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, Any]:
        """Call a tool of every instance: what each returned, or the `FabricError` it ended in, by instance id.

        Raises:
            AgentUnavailable: there is no instance.
            TransportUnavailable: nobody can be asked.
        """
        params, scope = Body({"name": tool, "arguments": arguments or {}}), scope_here(timeout)

        def call_to(instance: str) -> Call:
            return Call(self.name, "tools/call", params, scope, instance=instance, target=tool)

        def outcome(answer: Answer) -> Any:
            try:
                return value_of(answer.body) if answer.body is not None else answer.error
            except errors.ToolError as said:
                return said

        answers = await broadcast(self._caller, self.name, call_to)
        return {answer.instance: outcome(answer) for answer in answers}

    def task(self, task_id: str) -> Task:
        """The task of this id, whoever started it."""
        return Task(self._tasks, self.name, task_id)

    async def read(self, uri: str, *, timeout: float = DEFAULT_TIMEOUT) -> list[dict[str, Any]]:
        """Read a resource: its MCP contents, each with `uri`, `mimeType` and `text` or `blob` (base64)."""
        return (await self._ask("resources/read", {"uri": uri}, timeout))["contents"]

    async def prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> list[dict[str, Any]]:
        """Fill in a prompt: its MCP messages, each with `role` and `content`."""
        return (await self._ask("prompts/get", {"name": name, "arguments": arguments or {}}, timeout))["messages"]

    async def describe(self, *, timeout: float = DEFAULT_TIMEOUT, instance: str | None = None) -> Description:
        """What the agent says of itself; `instance` asks a certain one."""
        return Description.model_validate(await self._ask("fabric/describe", {}, timeout, instance))

    async def _ask(self, method: str, params: dict[str, Any], timeout: float, instance: str | None = None) -> Any:
        """Call a method that only reads."""
        call = Call(self.name, method, Body(params), scope_here(timeout), safe=True, instance=instance)
        return (await self._caller.call(call)).value()


def _moment(how: How, now: float) -> float | None:
    """When a task may begin: Unix time in seconds, or `None` for at once."""
    delay, at = how.get("delay"), how.get("at")
    if delay is not None and at is not None:
        raise errors.InvalidParams("a task has a delay or a time, not both")
    if delay is not None:
        return now + _ahead("delay", delay)
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise errors.InvalidParams("a time needs its zone: datetime.now(UTC), or .astimezone()")
        at = at.timestamp()
    return None if at is None else now + _ahead("at", at - now) if at > now else at


def _ahead(name: str, seconds: float) -> float:
    """`seconds`, if what they say of a task may lie so far ahead."""
    if not 0 <= seconds <= LONGEST_KEPT:
        raise errors.InvalidParams(f"{name} is 0 to {LONGEST_KEPT} seconds from now, not {seconds:g}")
    return seconds


def _checked_key(key: str) -> str:
    """`key`, if it can travel in a header."""
    if _KEY.fullmatch(key) is None:
        raise errors.InvalidParams("an idempotency key has 1 to 128 printable ASCII characters without spaces")
    return key
