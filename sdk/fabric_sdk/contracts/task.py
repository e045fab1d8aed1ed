"""What is said of a task: its class, its states, its policy, and its record as it is stored (docs/wire.md).

Above: patterns and workers. Below: nothing but JSON. A record is written whole, by whoever holds the last sequence of
its subject: a task has one history.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, cast, get_args
from uuid import uuid4

import orjson
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams, UnreadableRecord
from fabric_sdk.contracts.subjects import Header

Priority = Literal["critical", "high", "normal", "low"]
PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "high", "normal", "low")

State = Literal["held", "queued", "running", "input_required", "completed", "dead", "cancelled", "expired"]
ENDS: Final = frozenset(("completed", "dead", "cancelled", "expired"))

DEFAULT_KEEP: Final = 86_400.0
"""Seconds for which a task's end stays on record, and its key names it."""
LONGEST_KEPT: Final = 10 * 365 * 86_400
"""Seconds for which a task's end may be asked to stay on record."""
LONGEST_UNENDED: Final = 30 * 86_400
"""Seconds after which the record of a task that never ended is given up, and so is an unread dead letter."""
_LEAST_KEPT: Final = 3_600
"""Seconds for which an end is on record at least: a worker may be lost after it wrote that and before it acknowledged,
and whoever is given the message then must see it."""

_MOST_WARNED: Final = 1000

log = logging.getLogger(__name__)

ForMcp = Literal["never", "optional", "required"]

CARRIED: Final = (
    Header.KEY,
    Header.DIGEST,
    Header.PRINCIPAL,
    Header.TRACEPARENT,
    Header.TRACESTATE,
    Header.KEEP,
    Header.CLAIM,
    Header.ONCE,
)
"""What each message of a task takes over from the one before: when it becomes due, goes on, or is redriven."""

POLICY_META: Final = "fabric/task"
"""Where a tool's `_meta` holds its `Policy`, so that hosted servers can state one too."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a tool runs as a task."""

    attempts: int = 5
    """How often it is tried, the first time included; a lost worker counts."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled with each further one."""
    longest_wait: float = 60.0
    """Seconds between two attempts at most."""
    timeout: float = 900.0
    """Seconds that one attempt may take."""
    retry_on: tuple[str, ...] = ("Exception",)
    """Names of the exceptions, or of their base classes, after which it is tried again."""
    silence: float | None = None
    """Seconds without `heartbeat`, `progress` or `checkpoint` after which an attempt counts as hung."""
    mcp: ForMcp = "never"
    """Whether an MCP client's call becomes a task: not at all, if the client knows tasks, or else it is refused."""
    asks_first: bool = False
    """Whether an MCP client's call becomes a task only once it brings answers: until then it is a call, and asks."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.timeout <= 0 or self.first_wait < 0 or self.longest_wait < 0:
            raise ConfigurationError("a task's policy needs at least one attempt and a positive timeout")
        if self.silence is not None and self.silence <= 0:
            raise ConfigurationError("a task's policy allows no silence at all, or for more than 0 seconds")
        if self.mcp not in get_args(ForMcp):
            raise ConfigurationError(f"for MCP clients, a task is {', '.join(get_args(ForMcp))}, not {self.mcp!r}")

    @staticmethod
    def of(tool: Mapping[str, Any] | None) -> Policy:
        """The policy in a tool's description; the default where it states none, or, with a warning, none that is one.

        What a newer version added to it is passed over.
        """
        about: Mapping[str, Any] = tool or {}
        meta: dict[str, Any] = about.get("_meta") or {}
        stated: Any = meta.get(POLICY_META)
        if stated is None:
            return Policy()
        try:
            if not isinstance(stated, dict):
                raise TypeError(f"it is {stated!r}, no object")
            given = cast("dict[str, Any]", stated)
            known = {name: value for name, value in given.items() if name in Policy.__slots__}
            if isinstance(known.get("retry_on"), str):
                known["retry_on"] = (known["retry_on"],)
            elif "retry_on" in known:
                known["retry_on"] = tuple(map(str, known["retry_on"]))
            return Policy(**known)
        except (ConfigurationError, TypeError) as unfit:
            _warn_of_policy(str(about.get("name")), str(unfit))
            return Policy()

    @staticmethod
    def stated(tool: Mapping[str, Any]) -> bool:
        """Whether a tool's description states one."""
        return POLICY_META in (tool.get("_meta") or {})

    def meta(self) -> dict[str, Any]:
        """This policy as a tool's `_meta` states it."""
        return {name: getattr(self, name) for name in Policy.__slots__}

    def wait_after(self, attempt: int) -> float:
        """Seconds to wait after this failed attempt."""
        return min(self.first_wait * 2 ** min(attempt - 1, 30), self.longest_wait)


@lru_cache(maxsize=_MOST_WARNED)
def _warn_of_policy(tool: str, why: str) -> None:
    """Once for each tool, and what is wrong with it: a policy is read again whenever its tool is."""
    log.warning("tool %r runs as a task with the default policy, as its own cannot be read: %s", tool, why)


class Parked(TypedDict):
    """What a task that waits for answers goes on with."""

    requests: dict[str, Any]
    """MCP requests that are open, each under a key that the task never uses again."""
    answers: dict[str, Any]
    """To the others, each under the key that the tool gave its request."""
    params: dict[str, Any]
    """Of `tools/call`, with the state that the tool wants back."""
    headers: dict[str, str]


def _told(failure: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(failure.get("error"), str):
        raise ValueError("an attempt's error is told in words")
    return failure


_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(allow_inf_nan=False)]
_Failure = Annotated[dict[str, Any], AfterValidator(_told)]


@dataclass(slots=True)
class Record:
    """How a task stands."""

    id: str
    agent: str
    tool: str = ""
    state: State = "queued"
    queued: _Seconds = 0.0
    """When it was started: Unix time in seconds."""
    changed: _Seconds = 0.0
    """When this was written: Unix time in seconds."""
    priority: Priority = "normal"
    origin: _Count = 0
    """The place of its message in the queue; another message of the same task is a repetition."""
    attempt: _Count = 0
    """Which attempt it is at, since it was started, redriven or answered."""
    before: _Count = 0
    """Attempts before that; errors are numbered through."""
    returned: _Count = 0
    """Deliveries that were handed back without an attempt."""
    given: _Count = 0
    """How often it was begun; it only grows, though a consumer that is made anew counts anew."""
    instance: str = ""
    key: str | None = None
    """What it was started with, so that whoever does so again joins it."""
    digest: str | None = None
    """Of the arguments that its key stands for; none in records of versions that did not compare them."""
    principal: str | None = None
    """Who started it, as verified at the edge."""
    keep: Annotated[float, Field(ge=1, le=LONGEST_KEPT)] = DEFAULT_KEEP
    expires: _Seconds | None = None
    """Unix time in seconds after which it is not begun."""
    progress: dict[str, Any] | None = None
    saved: list[Any] = field(default_factory=list[Any])
    """The last checkpoint, if there is one."""
    steps: dict[str, Any] = field(default_factory=dict[str, Any])
    """What `once` has done, by step."""
    errors: list[_Failure] = field(default_factory=list[dict[str, Any]])
    """Of each failed attempt: `attempt`, `error`, `code`, `instance`, `at`, `trace`."""
    rounds: _Count = 0
    """How often it has asked whoever started it."""
    parked: Parked | None = None
    """What it asks now, in the state `input_required`; in the state `held`, what it begins with."""
    reason: str = ""
    """Why it is held, or was not let go on, in words."""
    result: Any = None
    """The MCP result: JSON, or bytes of JSON on the way out."""
    claim: str = ""
    """Where the result lies, if it is too large for a record."""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDS

    @property
    def tries(self) -> int:
        """How often it was tried, all in all."""
        return self.before + self.attempt

    @property
    def lasts(self) -> int:
        """Seconds for which this is kept once it is written, unless something changes before."""
        if self.state in ("held", "input_required"):
            return LONGEST_KEPT  # nothing but an answer brings it back
        if not self.ended or self.state == "dead":
            return LONGEST_UNENDED
        return max(_LEAST_KEPT, round(self.keep))

    def overdue(self, now: float) -> bool:
        """Whether it was never begun, and may not be any more."""
        return self.state == "queued" and self.attempt == 0 and self.expires is not None and self.expires <= now

    def body(self) -> Body:
        """This record as it is stored."""
        stored = {name: value for name in Record.__slots__ if (value := getattr(self, name)) not in _NOTHING}
        if isinstance(self.result, bytes):
            stored["result"] = orjson.Fragment(self.result)
        return Body(encoded=orjson.dumps(stored))

    @staticmethod
    def of(subject: str, body: Body) -> Record:
        """The record that is stored, or told, on a subject, which says whose it is.

        What a newer version added to it is passed over.

        Raises:
            UnreadableRecord: it is none.
        """
        agent, task_id = subjects.task_of(subject)
        try:
            return _RECORD.validate_python({**body.members(), "agent": agent, "id": task_id})
        except ValidationError as wrong:
            first = wrong.errors(include_url=False, include_context=False, include_input=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except ValueError as broken:
            why = str(broken)
        raise UnreadableRecord(f"what is on record of task {task_id} cannot be read: {why}")


_RECORD: Final = TypeAdapter(Record)
_NOTHING: Final[tuple[Any, ...]] = (None, "", {}, [])


def checked_policy(stated: Any) -> Policy | None:
    """What an author states as `task=`.

    Raises:
        ConfigurationError: it is no policy.
    """
    if stated is None or isinstance(stated, Policy):
        return stated
    raise ConfigurationError(f"task= is a Policy, not {stated!r}", fix="write task=Policy(attempts=3)")


def largest_params(max_message: int) -> int:
    """Bytes that a task may bring or keep, where messages have `max_message`: the rest is for how it ends."""
    return max_message - max_message // 16


def priority_of(text: str | None) -> Priority:
    """The class that `text` names; `normal` for what names none."""
    return text if text in PRIORITIES else "normal"


def new_task_id() -> str:
    """An id nobody can guess."""
    return uuid4().hex


def keyed_task_id(agent: str, key: str, principal: str | None) -> str:
    """The one id that `key` gives to a task of `agent`, for each principal its own."""
    said = "\0".join((agent, principal or "", key))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def arguments_digest(params: Body) -> str:
    """Tells the arguments in the params of `tools/call` from others; the order of members is nothing.

    Raises:
        ValueError: the params are no JSON object.
        InvalidParams: their arguments can be read, and are nested too deeply to be written again.
    """
    given: Any = Body(encoded=params.encoded()).members().get("arguments") or {}
    try:
        said = orjson.dumps(given, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        raise InvalidParams(
            "the arguments are nested too deeply to be compared with those of another task of this key",
            fix="nest them less than 250 deep, or start the task without a key",
        ) from None
    return hashlib.blake2b(said, digest_size=16).hexdigest()
