"""What starts a task: as its sender describes it, as its message says it, and as it is first put on record.

Above: `task`, the worker's tasks, and whoever starts one. Below: contracts. Nothing is sent here. A task that another
one starts gets its key by itself, so that an attempt which does it again starts nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson

from fabric_sdk import tracing
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.conventions import EXECUTE_TOOL, Attribute
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.scope import Effects, Scope, current_effects
from fabric_sdk.contracts.streams import DUPLICATE_WINDOW
from fabric_sdk.contracts.subjects import Header, number
from fabric_sdk.contracts.task import (
    DEFAULT_KEEP,
    LONGEST_KEPT,
    PRIORITIES,
    Priority,
    Record,
    arguments_digest,
    keyed_task_id,
    new_task_id,
)
from fabric_sdk.patterns.schedule import moment


@dataclass(slots=True, kw_only=True)
class Start:
    """One task, as its sender describes it."""

    agent: str
    params: Body
    """Of `tools/call`."""
    scope: Scope
    key: str | None = None
    priority: Priority = "normal"
    at: float | None = None
    """Unix time in seconds before which it is not begun."""
    expires: float | None = None
    """Unix time in seconds after which it is not begun."""
    keep: float = DEFAULT_KEEP
    """Seconds for which its end stays on record."""
    once: bool = False
    """Whether it is tried once, whatever its tool's policy says: a lost worker, then, is its end."""
    id: str = field(init=False)
    digest: str | None = field(init=False, default=None)
    """Of its arguments, if its sender chose its key: what is started with that again has to be the same."""
    claim: str | None = field(init=False, default=None)
    """Where the params lie, if they are too large for one message."""
    effects: Effects | None = field(init=False, default=None)
    """What gave it its key, if the task that starts it did."""

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise errors.InvalidParams(f"a task's priority is one of {', '.join(PRIORITIES)}, not {self.priority!r}")
        if not 1 <= self.keep <= LONGEST_KEPT:
            raise errors.InvalidParams(f"the end of a task is kept for 1 to {LONGEST_KEPT} seconds")
        effects = current_effects.get()
        if not all(when is None or math.isfinite(when) for when in (self.at, self.expires)):
            raise errors.InvalidParams("a task begins and expires at finite times")
        if self.key is None and effects is not None:
            self.key = effects.name("start", self.agent, self.params.encoded().decode())
            self.effects = effects
        elif self.key is not None:
            self.digest = arguments_digest(self.params)
        keyed = self.key is not None
        if keyed:  # for so long, the server knows the key by itself, and would refuse what nobody remembers
            self.keep = max(self.keep, DUPLICATE_WINDOW)
        self.id = keyed_task_id(self.agent, self.key or "", self.scope.principal) if keyed else new_task_id()

    def take_back(self) -> None:
        """It may not have been started: the next like it gets its key."""
        if self.effects is not None and self.key is not None:
            self.effects.take_back(self.key)

    def message(self) -> Message:
        """The message that waits in the queue."""
        return Message(subjects.task(self.agent, self.priority, self.id), self.params, headers=self.headers())

    def message_for_later(self) -> Message:
        """The message that the server turns into one that is due, at its time."""
        assert self.at is not None
        headers = self.headers() | {
            Header.SCHEDULE: f"@at {moment(self.at)}",
            Header.SCHEDULE_TARGET: subjects.later(self.agent, "due", self.id),
            Header.CLASS: self.priority,
            Header.EXPECTED: "0",
        }
        return Message(subjects.later(self.agent, "once", self.id), self.params, headers=headers)

    def headers(self) -> dict[str, str]:
        """What its message says beside the params."""
        headers = {Header.MESSAGE_ID: self.id}
        if self.key is not None:
            headers[Header.KEY] = self.key
        if self.digest is not None:
            headers[Header.DIGEST] = self.digest
        if self.keep != DEFAULT_KEEP:
            headers[Header.KEEP] = f"{self.keep:.3f}"
        if self.expires is not None:
            headers[Header.EXPIRES] = f"{self.expires:.3f}"
        if self.claim is not None:
            headers[Header.CLAIM] = self.claim
        if self.once:
            headers[Header.ONCE] = "1"
        return headers | self.scope.headers()


def record_of(headers: Mapping[str, str] | None, params: Body) -> Record:
    """The first record of a task, from the message that started it."""
    headers = headers or {}
    try:
        tool = str(orjson.loads(params.encoded()).get("name", ""))
    except (ValueError, AttributeError):
        tool = ""  # the handler will say what is wrong with it
    keep = number(headers.get(Header.KEEP)) or DEFAULT_KEEP
    keep = keep if 1 <= keep <= LONGEST_KEPT else DEFAULT_KEEP
    expires = number(headers.get(Header.EXPIRES))
    key, principal = headers.get(Header.KEY), headers.get(Header.PRINCIPAL)
    key = None if key == headers.get(Header.MESSAGE_ID) else key  # what has become due has its own id for a key
    digest = headers.get(Header.DIGEST)
    return Record(id="", agent="", tool=tool, key=key, digest=digest, principal=principal, keep=keep, expires=expires)


@contextmanager
def traced(starts: Sequence[Start]) -> Generator[None]:
    """A span for what is started, if its trace is sampled: every attempt is below it."""
    first, trace = starts[0], starts[0].scope.trace
    if trace is None or not trace.sampled:
        yield
        return
    tool = str(first.params.members().get("name", ""))
    about: dict[str, str | int] = {Attribute.OPERATION: EXECUTE_TOOL, Attribute.TOOL: tool, Attribute.MESSAGE: first.id}
    if len(starts) > 1:
        about[Attribute.BATCH] = len(starts)
    with tracing.sending("start", tool, trace, f"fab.task.{first.agent}", about) as span:
        for start in starts:
            start.scope = start.scope._replace(trace=tracing.trace_of(span, trace))
        yield
