"""The one catalogue of what is kept: JetStream's streams and consumers (docs/wire.md; ADR 7).

Above: patterns and workers, which store and pull. Below: the subjects. Whoever first needs a stream creates it as it
is written here; nobody ever changes one that exists, so an operator's own limits stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from fabric_sdk.contracts import subjects

_SECOND: Final = 1_000_000_000
"""Nanoseconds, in which JetStream counts."""
GROUP: Final = "pool"
"""The one priority group of each consumer: pulls in it say who is to be served first."""
_MEBIBYTE: Final = 1024 * 1024

DUPLICATE_WINDOW: Final = 120
"""Seconds for which the server itself knows a message again by its `Nats-Msg-Id`: longer than any publisher retries."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream: its name, what it keeps, and how."""

    name: str
    subjects: tuple[str, ...]
    options: Mapping[str, Any]
    """JetStream's own configuration fields."""

    def config(self, replicas: int) -> dict[str, Any]:
        """The body of `$JS.API.STREAM.CREATE`."""
        about = {"name": self.name, "subjects": list(self.subjects), "num_replicas": replicas, "storage": "file"}
        return about | {"duplicate_window": DUPLICATE_WINDOW * _SECOND, "allow_direct": True, **self.options}


@dataclass(frozen=True, slots=True)
class Consumer:
    """One durable consumer of a stream, shared by all who pull from it."""

    stream: Stream
    name: str
    subject: str
    """Which of the stream's messages."""
    ack_wait: float = 0.0
    """Seconds without a sign of life after which a message is delivered again; 0 for one that only reads."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JetStream's own configuration fields, in place of the usual ones."""

    def config(self) -> dict[str, Any]:
        """The body of `$JS.API.CONSUMER.CREATE`."""
        config: dict[str, Any] = {"name": self.name, "durable_name": self.name, "filter_subject": self.subject}
        config |= {"ack_policy": "explicit", "ack_wait": int(self.ack_wait * _SECOND)}
        # Redelivered without end: how often is enough is the tool's own policy, which no consumer knows.
        config |= {"priority_groups": [GROUP], "priority_policy": "prioritized"}
        config |= {"max_deliver": -1, "max_waiting": 4096, "max_ack_pending": 20_000, **self.options}
        config = {name: value for name, value in config.items() if value is not None}
        return {"stream_name": self.stream.name, "config": config}


TASKS: Final = Stream(
    "FAB_TASKS",
    (subjects.TASKS,),
    MappingProxyType(
        {
            "retention": "workqueue",
            "discard": "new",  # a full queue refuses in words; it never forgets what it accepted
            "max_msgs": 1_000_000,
            "max_bytes": 512 * _MEBIBYTE,
            "max_msgs_per_subject": 1,  # a task's subject ends in its id: whoever starts it again finds it there
            "discard_new_per_subject": True,
            "allow_atomic": True,
        }
    ),
)
"""What waits to be done, and what is being done: one message for each task, removed once its end is on record."""

RECORDS: Final = Stream(
    "FAB_RECORDS",
    (subjects.RECORDS,),
    MappingProxyType(
        {
            "discard": "new",
            "max_bytes": 1024 * _MEBIBYTE,
            "max_msgs_per_subject": 1,
            "allow_atomic": True,
            "allow_msg_ttl": True,
            "republish": {"src": subjects.RECORD_STORED, "dest": subjects.RECORD_TOLD},
        }
    ),
)
"""How each task stands, and the letters of the dead: one message for each, replaced with every change."""

LATER: Final = Stream(
    "FAB_LATER",
    (subjects.LATER,),
    # Without a bound: JetStream takes schedules only where a full stream drops what is old, and none may be dropped.
    MappingProxyType({"retention": "workqueue", "max_msgs_per_subject": 1, "allow_msg_schedules": True}),
)
"""What is to be started later, once or again and again; the server fires it."""

EVENTS: Final = Stream(
    "FAB_EVENTS",
    (subjects.EVENTS,),
    MappingProxyType(
        {
            "discard": "new",  # age makes room; what is younger is never dropped for what is new
            "max_age": 7 * 86_400 * _SECOND,
            "max_bytes": 1024 * _MEBIBYTE,
            "allow_atomic": True,
        }
    ),
)
"""What happened, kept for a week, for whoever wants to know it now or again."""

SCHEMAS: Final = Stream(
    "FAB_SCHEMAS",
    (subjects.SCHEMAS,),
    MappingProxyType(
        {
            "discard": "new",  # a full registry refuses; it never forgets a version that events name
            "max_bytes": 64 * _MEBIBYTE,
            "republish": {"src": subjects.SCHEMAS, "dest": subjects.SCHEMAS_TOLD},
        }
    ),
)
"""Every version of every schema, for ever."""

CONVERSATIONS: Final = Stream(
    "FAB_CONVERSATIONS",
    (subjects.CONVERSATIONS,),
    MappingProxyType(
        {
            "discard": "new",
            "max_age": 90 * 86_400 * _SECOND,
            "max_bytes": 1024 * _MEBIBYTE,
            "allow_rollup_hdrs": True,
        }
    ),
)
"""What agents remember of their conversations, for three months after it was said."""

ACCESS: Final = Stream(
    "FAB_ACCESS",
    (subjects.ACCESS,),
    MappingProxyType(
        {"discard": "new", "allow_msg_ttl": True, "max_msgs_per_subject": 1, "max_bytes": 256 * _MEBIBYTE}
    ),
)
"""Who may what, as data: tables that every gateway follows."""

SESSIONS: Final = Stream(
    "FAB_SESSIONS",
    (subjects.SESSIONS,),
    MappingProxyType(
        {
            "discard": "new",
            "max_age": 86_400 * _SECOND,
            "max_bytes": 1024 * _MEBIBYTE,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "republish": {"src": subjects.SESSIONS, "dest": subjects.SESSIONS_TOLD},
        }
    ),
)
"""Sessions of MCP's handshake revisions: any gateway goes on with any, and what a client missed it is told again."""

OBJECTS: Final = Stream(
    "FAB_OBJECTS",
    (subjects.OBJECTS,),
    MappingProxyType(
        {"discard": "new", "allow_msg_ttl": True, "max_msgs_per_subject": 1, "max_bytes": 2048 * _MEBIBYTE}
    ),
)
"""What is too large for one message, in pieces, each for its own time."""

AUDIT: Final = Stream(
    "FAB_AUDIT",
    (subjects.AUDIT,),
    MappingProxyType(
        {
            "discard": "old",  # what is new is never refused for what is old
            "max_age": 90 * 86_400 * _SECOND,
            "max_bytes": 1024 * _MEBIBYTE,
            "deny_delete": True,
            "deny_purge": True,
        }
    ),
)
"""Who did what, for three months: the broker itself removes nothing before its time, whoever asks."""

SPANS: Final = Stream(
    "FAB_SPANS",
    (subjects.SPANS,),
    MappingProxyType(
        {
            "discard": "old",
            "storage": "memory",  # for whoever looks now; what is to last goes to a backend
            "num_replicas": 1,
            "max_age": 3600 * _SECOND,
            "max_bytes": 64 * _MEBIBYTE,
        }
    ),
)
"""Spans of the last hour, so that a trace can be looked at without any backend."""

EVENT_ACK_WAIT: Final = 30.0
"""Seconds without a sign of life after which an event is given to another member of its group."""

TASK_ACK_WAIT: Final = 15.0
"""Seconds without a sign of life after which a task is given to another worker, unless an operator says otherwise."""

CATALOGUE: Final = (TASKS, RECORDS, LATER, EVENTS, SCHEMAS, CONVERSATIONS, ACCESS, SESSIONS, OBJECTS, AUDIT, SPANS)

OURS: Final = "FAB_"
"""What the names of all streams of the fabric begin with."""


def stream_of(subject: str) -> Stream | None:
    """The stream of these that keeps what is published on `subject`, if one does."""
    beginnings = ((stream, stream.subjects[0].rstrip("*.>")) for stream in CATALOGUE)
    return next((stream for stream, beginning in beginnings if subject.startswith(f"{beginning}.")), None)


def task_lane(agent: str, priority: str, ack_wait: float = TASK_ACK_WAIT) -> Consumer:
    """The queue of one agent's tasks of one class."""
    return Consumer(TASKS, f"{agent}-{priority}", subjects.tasks(agent, priority), ack_wait)


def due_lane(agent: str, ack_wait: float = TASK_ACK_WAIT) -> Consumer:
    """What has become due for one agent."""
    return Consumer(LATER, f"{agent}-due", subjects.later(agent, "due", "*"), ack_wait)


def group_lane(group: str, patterns: tuple[str, ...], start: Mapping[str, Any]) -> Consumer:
    """What one durable group of subscribers has not acknowledged yet."""
    options = {"filter_subject": None, "filter_subjects": [subjects.event(each) for each in patterns], **start}
    return Consumer(EVENTS, f"group-{group}", "", EVENT_ACK_WAIT, MappingProxyType(options))


def reading(stream: Stream, name: str, wanted: tuple[str, ...], start: Mapping[str, Any]) -> Consumer:
    """One pass over a stream by one reader: forgotten by the server soon after the reader is gone."""
    options = {
        "durable_name": None,
        "filter_subject": None,
        "filter_subjects": list(wanted),
        "ack_policy": "none",
        "ack_wait": None,
        "max_ack_pending": None,
        "priority_groups": None,
        "priority_policy": None,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 30 * _SECOND,
        **start,
    }
    return Consumer(stream, name, "", 0.0, MappingProxyType(options))
