"""What a handler sees of the call it serves.

Above: authors' functions, which are given it; the worker, which fills it. Below: the client. It knows no broker: what
leaves the handler before its answer (progress, log lines) goes through one `emit` function.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, cast, overload

from pydantic import BaseModel

from fabric_sdk.client import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.asking import CAPABILITIES, NEEDED, answers_in
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import CapabilityMissing, ConfigurationError, from_wire
from fabric_sdk.contracts.scope import Scope, Trace

_NO_PARAMS: Final[Mapping[str, Any]] = {}
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
C = TypeVar("C")

LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

Ask = Callable[["Context", str, dict[str, Any]], Awaitable[Any]]
"""Asks whoever called: the question's key, and the MCP request; returns the MCP result that answers it."""

Emit = Callable[[str, str, dict[str, Any]], Awaitable[None]]
"""Sends one frame ahead of an answer: the answer's subject, the kind (`progress`, `log`) and the JSON object."""


async def _nowhere(reply: str, kind: str, frame: dict[str, Any]) -> None:
    """For a context outside a worker."""


async def _nobody(context: Context, key: str, request: dict[str, Any]) -> Any:
    """For a context outside a worker."""
    raise CapabilityMissing("nobody can be asked here")


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


@dataclass(frozen=True, slots=True)
class Elicited(Generic[C]):
    """What a person answered."""

    action: Literal["accept", "decline", "cancel"]
    content: C | None
    """What was filled in, if it was accepted: of the model's type, where one was given."""


class Context:
    """One call, from inside its handler. Annotate a parameter of a tool with `Context` to receive it."""

    __slots__ = (
        *("_answers", "_ask", "_asked", "_emit", "_fabric", "_progress"),
        *("agent", "cancelled", "instance", "key", "owner", "params", "reply", "scope", "task"),
    )

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
        ask: Ask = _nobody,
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
        self.owner: Any = None
        """What its worker knows of this call."""
        self.params = _NO_PARAMS
        """The request's own, once it is open."""
        self.reply = reply
        """Where what is said ahead of the answer goes."""
        self._fabric = fabric
        self.cancelled = False
        """Set when the caller gave up. Coroutines are cancelled as well; a function in a thread looks here."""
        self._emit = emit
        self._ask = ask
        self._asked = 0
        self._answers: dict[str, Any] | None = None
        self._progress = -math.inf

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
        await self._emit(self.reply, "progress", frame)

    async def log(self, level: LogLevel, data: Any, *, logger: str | None = None) -> None:
        """Send the caller a log entry; `data` is any JSON value. The worker's own log is `logging`'s business."""
        await self._emit(self.reply, "log", {"level": level, "data": data, "logger": logger or self.agent})

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

    # what everybody who listens is told

    async def resource_updated(self, uri: str) -> None:
        """Tell all who subscribed to this resource, under the agent's own URI, that it changed."""
        await self._tell_changed({"resource": uri})

    async def list_changed(self, which: Literal["tools", "resources", "prompts"]) -> None:
        """Tell everybody that this agent offers other tools, resources or prompts than before."""
        await self._tell_changed({"list": which})

    async def _tell_changed(self, what: dict[str, str]) -> None:
        await self.fabric.transport.publish(Message(subjects.changed(self.agent), Body(what)))

    # what whoever called is asked

    @overload
    async def elicit(self, message: str, schema: type[M]) -> Elicited[M]: ...
    @overload
    async def elicit(self, message: str, schema: dict[str, Any]) -> Elicited[dict[str, Any]]: ...
    async def elicit(self, message: str, schema: type[BaseModel] | dict[str, Any]) -> Elicited[Any]:
        """Ask the person behind the call, by a form.

        The handler waits here, and does nothing twice. In a task, which may wait for days, it is begun anew with the
        answer: what came before runs again, but for steps kept with `once`.

        Args:
            message: what is asked.
            schema: a flat model, or its JSON Schema.

        Raises:
            CapabilityMissing: whoever called cannot be asked so.
        """
        model = schema if isinstance(schema, type) else None
        wanted = schema if isinstance(schema, dict) else schema.model_json_schema()
        said = await self.ask("elicitation/create", {"mode": "form", "message": message, "requestedSchema": wanted})
        content: Any = said.get("content") if said.get("action") == "accept" else None
        return Elicited(said.get("action", "cancel"), model.model_validate(content) if model and content else content)

    async def sample(self, messages: str | list[dict[str, Any]], *, max_tokens: int = 1000, **params: Any) -> Any:
        """Have the caller's model say something; returns MCP's `CreateMessageResult`, with `content` and `model`.

        Raises:
            CapabilityMissing: whoever called has no model to lend.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": {"type": "text", "text": messages}}]
        return await self.ask("sampling/createMessage", {"messages": messages, "maxTokens": max_tokens, **params})

    async def list_roots(self) -> list[dict[str, Any]]:
        """The folders that the caller works in, each with `uri` and perhaps `name`.

        Raises:
            CapabilityMissing: whoever called does not tell.
        """
        return list((await self.ask("roots/list", {})).get("roots", []))

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Send whoever called an MCP request, and wait for its result; see `elicit`, `sample`, `list_roots`.

        Raises:
            CapabilityMissing: it has not declared the capability that this needs.
            QuestionLost: no answer came.
            HandlerFailed: the caller answered an error.
        """
        if self._answers is None:
            self._answers = answers_in(self.params)
        self._asked += 1
        if (key := str(self._asked)) not in self._answers:
            capability = NEEDED.get(method, method)
            if self.task is None and capability not in self.capabilities:
                required: dict[str, Any] = {"requiredCapabilities": {capability: {}}}
                raise CapabilityMissing(f"the caller has not declared the capability {capability!r}", data=required)
            self._answers[key] = await self._ask(self, key, {"method": method, "params": params})
        answer: Any = self._answers[key]
        if isinstance(answer, dict) and isinstance(refused := cast("dict[str, Any]", answer).get("error"), dict):
            raise from_wire(cast("dict[str, Any]", refused))
        return self._answers[key]

    @property
    def answers(self) -> Mapping[str, Any]:
        """What was answered so far, by the question's key."""
        return self._answers or {}

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What whoever called can be asked: MCP client capabilities."""
        meta: Any = self.params.get("_meta")
        said: Any = cast("dict[str, Any]", meta).get(CAPABILITIES) if isinstance(meta, dict) else None
        return cast("dict[str, Any]", said) if isinstance(said, dict) else {}

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
