"""The one catalogue of subjects, queue groups and headers (docs/wire.md; ADR 2).

The first token of a subject is the wire's version: an incompatible change would speak `fab2.` beside `fab.`.
Names that stand in a subject are checked here, once, so no other module ever builds a subject by hand.

Above: whoever sends, hears or stores. Below: errors. Pure functions.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError

# A DNS label: fits a subject token, a micro service name, a Kubernetes object, and splits `agent_tool` at one place.
_AGENT_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

_MOST_DIGITS: Final = 15  # of a deadline: thousands of years, which a float holds exactly

_OF_PLATFORM: Final = frozenset(("registry", "durable", "access", "approvals", "audit"))

ANYBODY: Final = "@"
"""Before a capability, where else an agent's name stands: whoever has it is meant. No agent can be called so."""

POOL: Final = "pool"
"""The queue group that every instance of an agent, and whoever has a capability, joins: one of them takes each call."""

CATALOGUE_CHANGED: Final = "fab.catalogue.changed"
"""Published by the registry when an agent, an instance or a description came or went. Body: `{"at": Unix seconds}`."""

METRICS: Final = "fab.metrics"
"""Asked for what it counted, every process of the platform and every pool's worker process answers."""

BEATS: Final = "fab.beat.>"
"""Every heartbeat of every instance."""


CALLS: Final = "fab.call."
DIRECTS: Final = "fab.instance."
REPLIES: Final = "fab.reply."
"""What the subjects of calls, of calls to one certain instance, and of answers begin with; an agent, an instance or a
client comes next."""


TASKS: Final = "fab.task.*.*.*"
"""Every task that waits or is being worked on: its agent, its class, its id."""

RECORDS: Final = "fab.record.*.*.*"
"""What is on record: an agent, what kind of record (`task`, `dead`), a task's id."""

RECORD_STORED: Final = "fab.record.*.task.*"
RECORD_TOLD: Final = "fab.told.{{wildcard(1)}}.{{wildcard(2)}}"
"""Where the server repeats each task's record as it is stored; see `told`."""

LATER: Final = "fab.later.*.*.*"
"""What is to be started later: an agent, `once`, `every` or `due`, a task's id or a schedule's name."""


EVENTS: Final = "fab.event.>"
"""Every event of every topic."""

SCHEMAS: Final = "fab.schema.>"
"""Every version of every topic's schema."""

SCHEMAS_TOLD: Final = "fab.registered.>"
"""Where the server repeats each schema once it is stored."""


CONVERSATIONS: Final = "fab.conversation.*"
"""What is remembered of every conversation."""


ACCESS: Final = "fab.access.>"
"""Who may what, as data: `key.<id>`, `mount.<agent>.<prefix>`, `approval.<id>`, `grant.<id>`."""


SESSIONS: Final = "fab.session.>"
"""What gateways know of each handshake session: `<id>.state`, `<id>.call.<stream>`, `<id>.event.<stream>`."""

SESSIONS_TOLD: Final = "fab.sessiontold.>"
"""Where the server repeats each of them once it is stored."""


OBJECTS: Final = "fab.object.*.*"
"""Every piece of what is too large for one message."""


AUDIT: Final = "fab.audit.*"
"""Who did what: the batches of each writer."""


SPANS: Final = "fab.span.*"
"""Spans that ended lately, under the last digit of their trace's id."""


class Header:
    """Header names. Few and short: each one, and each letter of it, costs the receiver time."""

    KEY: Final = "Fab-Key"  # idempotency key
    PRINCIPAL: Final = "Fab-Principal"  # who asks, as verified at the edge; never a token
    ROLES: Final = "Fab-Roles"  # whoever asks has these, as verified at the edge; for the platform's own agents alone
    FRAME: Final = "Fab-Frame"  # on a reply subject: this is not the answer yet, but `progress` or `log`
    TRACEPARENT: Final = "traceparent"  # W3C trace context
    TRACESTATE: Final = "tracestate"
    ERROR: Final = "Nats-Service-Error"  # ADR-32: an error's text …
    ERROR_CODE: Final = "Nats-Service-Error-Code"  # … and code; the body holds the JSON-RPC error object
    STATUS: Final = "Status"  # set by the broker: 503 says that nobody listens
    DIGEST: Final = "Fab-Digest"  # of a task with a key: the digest of its arguments
    EXPIRES: Final = "Fab-Expires"  # of a task: Unix time in seconds after which it is not begun
    KEEP: Final = "Fab-Keep"  # of a task: seconds for which its end stays on record
    ONCE: Final = "Fab-Once"  # of a task: it is tried once, whatever its tool says
    REDRIVE: Final = "Fab-Redrive"  # of a task: it was dead, and is to be tried again
    ROUND: Final = "Fab-Round"  # of a task: it brings the answers to what was asked in this round
    CLASS: Final = "Fab-Class"  # of what is to be started later: its class
    MESSAGE_ID: Final = "Nats-Msg-Id"
    TTL: Final = "Nats-TTL"
    EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
    SEQUENCE: Final = "Nats-Sequence"
    ROLLUP: Final = "Nats-Rollup"
    CLAIM: Final = "Fab-Claim"  # the body is elsewhere: `<claim>.<pieces>.<bytes>`
    SNAPSHOT: Final = "Fab-Snapshot"  # in a conversation: it stands for all that came before
    SCHEDULE: Final = "Nats-Schedule"
    SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
    SCHEDULE_ZONE: Final = "Nats-Schedule-Time-Zone"
    SCHEDULER: Final = "Nats-Scheduler"
    BATCH: Final = "Nats-Batch-Id"
    BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
    BATCH_COMMIT: Final = "Nats-Batch-Commit"


def task_of(subject: str) -> tuple[str, str]:
    """The agent and the id of the task that is stored or told on this subject."""
    tokens = subject.split(".")
    return tokens[2], tokens[-1]


def number(text: str | None) -> float | None:
    """The number that a header holds; `None` for none, and for what is no finite number."""
    try:
        said = math.nan if text is None else float(text)
    except ValueError:
        return None
    return said if math.isfinite(said) else None


def checked_agent_name(name: str) -> str:
    """`name`, if it can name an agent.

    Raises:
        ConfigurationError: it is not a lower-case DNS label that starts with a letter.
    """
    if _AGENT_NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} cannot name an agent",
            fix="use 1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last",
        )
    return name


def checked_served_name(name: str, kind: str) -> str:
    """`name`, if an agent of this kind can be served under it.

    Raises:
        ConfigurationError: it is none, or that of a part of the platform itself, whose calls it would be given.
    """
    if kind != "platform" and name in _OF_PLATFORM:
        raise ConfigurationError(
            f"{name!r} is a part of the fabric itself: another agent of this name would be given its calls",
            fix="call the agent something else",
        )
    return checked_agent_name(name)


def checked_capability(capability: str) -> str:
    """`capability`, if it can name what agents can do.

    Raises:
        ConfigurationError: it is not named as agents are.
    """
    if _AGENT_NAME.fullmatch(capability) is None:
        raise ConfigurationError(
            f"{capability!r} cannot name a capability",
            fix="use 1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last: lint-python",
        )
    return capability


def having(capability: str) -> str:
    """The address of whoever has this capability: it stands where an agent's name does.

    Raises:
        ConfigurationError: there can be no such capability.
    """
    return f"{ANYBODY}{checked_capability(capability)}"


def checked_address(address: str) -> str:
    """`address`, if it is an agent's name, or `@` and a capability.

    Raises:
        ConfigurationError: it is neither.
    """
    return having(address[1:]) if address.startswith(ANYBODY) else checked_agent_name(address)


def who(address: str) -> str:
    """An agent, or whoever has a capability, in words."""
    return f"agents that can {address[1:]!r}" if address.startswith(ANYBODY) else f"agent {address!r}"


def checked_token(token: str) -> str:
    """`token`, if it can stand between two dots of a subject.

    Raises:
        ConfigurationError: it is empty, or has white space, a dot or a wildcard.
    """
    if _TOKEN.fullmatch(token) is None:
        raise ConfigurationError(
            f"{token!r} cannot stand in a subject", fix="use letters, digits, hyphens, underscores"
        )
    return token


def head(subject: str) -> str:
    """The first three tokens of a subject."""
    third_dot = subject.find(".", subject.find(".", subject.find(".") + 1) + 1)
    return subject if third_dot <= 0 else subject[:third_dot]


@lru_cache(1024)
def call(agent: str, method: str) -> str:
    """Where a call of an MCP method goes: any instance of `agent`, or of whoever has the capability, takes it."""
    return f"{CALLS}{agent}.{method.replace('/', '.')}"


def calls(agent: str) -> str:
    """All calls to `agent`."""
    return f"{CALLS}{agent}.>"


def direct(instance: str, method: str) -> str:
    """Where a call to one certain instance goes."""
    return f"{DIRECTS}{checked_token(instance)}.{method.replace('/', '.')}"


def directs(instance: str) -> str:
    """All calls to one certain instance."""
    return f"{DIRECTS}{instance}.>"


def control(agent: str) -> str:
    """Cancellations, heard by every instance of `agent`."""
    return f"fab.control.{agent}"


def changed(agent: str) -> str:
    """What changed of what `agent` offers: a resource's content (`resource`) or a list (`list`); `*` for all."""
    return f"fab.changed.{agent}"


def beat(agent: str, instance: str) -> str:
    """Heartbeats of one instance."""
    return f"fab.beat.{agent}.{instance}"


def reply(client: str, due: float, call_id: int) -> str:
    """Where the answer to one call of one client goes, and until when it is of use.

    The deadline (Unix time in seconds; in the subject, milliseconds) rides in the address of the answer rather than
    in a header: it is absolute, so it shrinks hop by hop by itself, and a call without any header is much
    cheaper for both ends (ADR 2).
    """
    return f"{REPLIES}{client}.{int(due * 1000)}.{call_id}"


def due_of(reply_subject: str) -> float | None:
    """The deadline in an answer's address, in seconds of Unix time; `None` in a foreign address (`_INBOX.…`)."""
    tokens = reply_subject.split(".")
    if len(tokens) == 5 and tokens[1] == "reply" and tokens[3].isdecimal() and len(tokens[3]) <= _MOST_DIGITS:
        return int(tokens[3]) / 1000
    return None


def number_of(reply_subject: str) -> str:
    """The call's number at its client: the last token."""
    return reply_subject.rpartition(".")[2]


def replies(client: str) -> str:
    """All answers to one client."""
    return f"{REPLIES}{client}.>"


def alive(reply_subject: str, instance: str) -> str:
    """Where an instance tells the client of `reply_subject` which of its calls it is still working on."""
    return ".".join((*reply_subject.split(".")[:3], "alive", instance))


def service(verb: str, *scope: str) -> str:
    """A NATS micro service subject (ADR-32): `$SRV.PING`, `$SRV.INFO.<name>`, `$SRV.STATS.<name>.<id>`."""
    return ".".join(("$SRV", verb, *scope))


def inbox(client: str, number: int) -> str:
    """Where the broker answers one question of one client."""
    return f"fab.inbox.{client}.{number}"


def inboxes(client: str) -> str:
    """All of the broker's answers to one client."""
    return f"fab.inbox.{client}.>"


def task(agent: str, priority: str, task_id: str) -> str:
    """Where one task waits."""
    return f"fab.task.{agent}.{priority}.{task_id}"


def tasks(agent: str, priority: str) -> str:
    """All tasks of one agent and class."""
    return f"fab.task.{agent}.{priority}.*"


def record(agent: str, task_id: str) -> str:
    """How one task stands."""
    return f"fab.record.{agent}.task.{task_id}"


def dead(agent: str, task_id: str) -> str:
    """The dead letter of one task; `*` for either."""
    return f"fab.record.{agent}.dead.{task_id}"


def told(agent: str, task_id: str) -> str:
    """Where each change of one task is told as it is stored, and its progress and log as they come."""
    return f"fab.told.{agent}.{task_id}"


def later(agent: str, kind: str, name: str) -> str:
    """What is to be started later: `once` (by task id), `every` (by schedule name), and what is `due` of both."""
    return f"fab.later.{agent}.{kind}.{name}"


def is_repeated(scheduler: str) -> bool:
    """Whether what became due was fired by a schedule, and not for one task: `scheduler` is where it waited."""
    return scheduler.split(".")[3:4] == ["every"]


def stream(stream_id: str, end: str) -> str:
    """Where one end of a stream hears the other: `client` or `worker`."""
    return f"fab.stream.{stream_id}.{end}"


def conversation(conversation_id: str) -> str:
    """What is remembered of one conversation."""
    return f"fab.conversation.{conversation_id}"


def access(kind: str) -> str:
    """What the subjects of one kind of access data begin with."""
    return f"fab.access.{kind}."


def session(session_id: str, *part: str) -> str:
    """One part of what is known of a session."""
    return ".".join(("fab.session", session_id, *part))


def session_told(session_id: str, *part: str) -> str:
    """Where a change of that part is told."""
    return ".".join(("fab.sessiontold", session_id, *part))


def gateway(replica: str) -> str:
    """Where one gateway hears what the others tell it; `all` for every one."""
    return f"fab.gateway.{replica}"


def spans(trace_id: str) -> str:
    """Where the spans of one trace are, with those of every other whose id ends with the same digit."""
    return f"fab.span.{trace_id[-1]}"


def piece(claim: str, number: int) -> str:
    """One piece of what is too large for one message."""
    return f"fab.object.{claim}.{number}"


def pieces(claim: str) -> str:
    """All pieces of one claim."""
    return f"fab.object.{claim}.*"


def audit(writer: str) -> str:
    """Where one process writes who did what."""
    return f"fab.audit.{writer}"


def event(topic: str) -> str:
    """Where events of a topic go; with wildcards, of the topics that match."""
    return f"fab.event.{topic}"


def topic_of(event_subject: str) -> str:
    """The topic of an event."""
    return event_subject.removeprefix("fab.event.")


def schema(topic: str) -> str:
    """The versions of one topic's schema."""
    return f"fab.schema.{topic}"


def registered_topic(told_subject: str) -> str:
    """The topic that a schema was registered for."""
    return told_subject.removeprefix("fab.registered.")
