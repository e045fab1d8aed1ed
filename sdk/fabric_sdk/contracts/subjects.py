"""The one catalogue of subjects, queue groups and headers (docs/wire.md; ADR 2).

The first token of a subject is the wire's version: an incompatible change would speak `fab2.` beside `fab.`.
Names that stand in a subject are checked here, once, so no other module ever builds a subject by hand.
"""

from __future__ import annotations

import re
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError

# A DNS label: fits a subject token, a micro service name, a Kubernetes object, and splits `agent_tool` at one place.
_AGENT_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

POOL: Final = "pool"
"""The queue group that every instance of an agent joins: one of them takes each call."""

CATALOGUE_CHANGED: Final = "fab.catalogue.changed"
"""Published by the registry when an agent, an instance or a description came or went. Body: `{"at": Unix seconds}`."""

BEATS: Final = "fab.beat.>"
"""Every heartbeat of every instance."""


class Header:
    """Header names. Few and short: each one, and each letter of it, costs the receiver time."""

    KEY: Final = "Fab-Key"  # idempotency key
    PRINCIPAL: Final = "Fab-Principal"  # who asks, as verified at the edge; never a token
    FRAME: Final = "Fab-Frame"  # on a reply subject: this is not the answer yet, but `progress` or `log`
    TRACEPARENT: Final = "traceparent"  # W3C trace context
    TRACESTATE: Final = "tracestate"
    ERROR: Final = "Nats-Service-Error"  # ADR-32: an error's text …
    ERROR_CODE: Final = "Nats-Service-Error-Code"  # … and code; the body holds the JSON-RPC error object
    STATUS: Final = "Status"  # set by the broker: 503 says that nobody listens


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


def call(agent: str, method: str) -> str:
    """Where a call of an MCP method goes: any instance of `agent` takes it."""
    return f"fab.call.{agent}.{method.replace('/', '.')}"


def calls(agent: str) -> str:
    """All calls to `agent`."""
    return f"fab.call.{agent}.>"


def direct(instance: str, method: str) -> str:
    """Where a call to one certain instance goes."""
    return f"fab.instance.{checked_token(instance)}.{method.replace('/', '.')}"


def directs(instance: str) -> str:
    """All calls to one certain instance."""
    return f"fab.instance.{instance}.>"


def control(agent: str) -> str:
    """Cancellations, heard by every instance of `agent`."""
    return f"fab.control.{agent}"


def beat(agent: str, instance: str) -> str:
    """Heartbeats of one instance."""
    return f"fab.beat.{agent}.{instance}"


def reply(client: str, due: float, call_id: int) -> str:
    """Where the answer to one call of one client goes, and until when it is of use.

    The deadline (Unix time in seconds; in the subject, milliseconds) rides in the address of the answer rather than
    in a header: it is absolute, so it shrinks hop by hop by itself, and a call without any header is much
    cheaper for both ends (ADR 2).
    """
    return f"fab.reply.{client}.{int(due * 1000)}.{call_id}"


def due_of(reply_subject: str) -> float | None:
    """The deadline in an answer's address, in seconds of Unix time; `None` in a foreign address (`_INBOX.…`)."""
    tokens = reply_subject.split(".")
    if len(tokens) == 5 and tokens[1] == "reply" and tokens[3].isdecimal():
        return int(tokens[3]) / 1000
    return None


def number_of(reply_subject: str) -> str:
    """The call's number at its client: the last token."""
    return reply_subject.rpartition(".")[2]


def replies(client: str) -> str:
    """All answers to one client."""
    return f"fab.reply.{client}.>"


def alive(reply_subject: str, instance: str) -> str:
    """Where an instance tells the client of `reply_subject` which of its calls it is still working on."""
    return ".".join((*reply_subject.split(".")[:3], "alive", instance))


def service(verb: str, *scope: str) -> str:
    """A NATS micro service subject (ADR-32): `$SRV.PING`, `$SRV.INFO.<name>`, `$SRV.STATS.<name>.<id>`."""
    return ".".join(("$SRV", verb, *scope))
