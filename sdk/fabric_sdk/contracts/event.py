"""What an event says of itself: CloudEvents 1.0, in NATS's binary mode (docs/wire.md).

Above: patterns. Below: subjects and bodies. The attributes are headers, `ce-` before each name; the body is the data as
it is. So the broker can filter by topic, and other CloudEvents tools read our events. Of what others publish, only the
data has to be JSON: an event without attributes, or in CloudEvents' structured mode, is read with the whole body as its
data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, Final
from urllib.parse import quote, unquote

from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.contracts.subjects import Header, event, topic_of

_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,15}")
_PATTERN: Final = re.compile(r"(?:(?:\*|[A-Za-z0-9_-]{1,64})(?:\.(?:\*|[A-Za-z0-9_-]{1,64})){0,15}(?:\.>)?|>)")
_UNQUOTED: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_PLAIN: Final = re.compile(f"[{re.escape(_UNQUOTED)}]*")


def checked_topic(topic: str) -> str:
    """`topic`, if events can be published on it.

    Raises:
        InvalidParams: it is not one to sixteen words between dots.
    """
    if _TOPIC.fullmatch(topic) is None:
        raise InvalidParams(
            f"{topic!r} is no topic", fix="use words of letters, digits, hyphens, underscores, with dots between them"
        )
    return topic


def checked_pattern(pattern: str) -> str:
    """`pattern`, if it can name topics: `*` stands for one word, `>` at the end for all the rest.

    Raises:
        InvalidParams: it cannot.
    """
    if _PATTERN.fullmatch(pattern) is None:
        raise InvalidParams(
            f"{pattern!r} names no topics", fix="write words and dots; `*` stands for a word, `>` for the rest"
        )
    return pattern


def checked_topics(patterns: Sequence[str]) -> tuple[str, ...]:
    """`patterns`, if a subscriber can want them all at once.

    Raises:
        InvalidParams: there is none, one names no topics, or two of them name the same topic.
    """
    if not patterns:
        raise InvalidParams("no topic is named", fix="name one, or `>` for all")
    for one, other in combinations([checked_pattern(each) for each in patterns], 2):
        if _meet(one.split("."), other.split(".")):
            raise InvalidParams(f"{one!r} and {other!r} name the same topics", fix="leave one out, or subscribe twice")
    return tuple(patterns)


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether there is a topic that two patterns both name."""
    if not one or not other:
        return not one and not other
    if ">" in (one[0], other[0]):
        return True
    return (one[0] == other[0] or "*" in (one[0], other[0])) and _meet(one[1:], other[1:])


class Event:
    """Something that happened."""

    __slots__ = ("_body", "id", "schema", "sequence", "source", "subject", "time", "topic", "traceparent", "type")

    def __init__(
        self,
        topic: str,
        body: Body,
        *,
        id: str,
        source: str,
        time: str = "",
        subject: str | None = None,
        schema: str | None = None,
        traceparent: str | None = None,
        sequence: int = 0,
        type: str | None = None,
    ) -> None:
        self.topic = topic
        """What kind of thing happened."""
        self.type = type or topic
        """The same in CloudEvents' words: the topic, unless another tool published it under a name of its own."""
        self.id = id
        """Together with source and topic, this names the event: a repetition has the same."""
        self.source = source
        """Where it happened: a URI reference, as `/agents/reader`."""
        self.time = time or _rfc3339(datetime.now(UTC))
        """When: RFC 3339."""
        self.subject = subject
        """What it happened to, in the publisher's own words."""
        self.schema = schema
        """Which registered schema its data fits: `fabric:schemas/<topic>/<version>`."""
        self.traceparent = traceparent
        self.sequence = sequence
        """Its place in the stream, once it is there."""
        self._body = body

    def __repr__(self) -> str:
        return f"<Event {self.topic} {self.id}>"

    @property
    def body(self) -> Body:
        """The data as it travels."""
        return self._body

    @property
    def data(self) -> Any:
        """What is said of it: a JSON value."""
        return self._body.value()

    def transform(self, data: Any) -> None:
        """Show other data in the place of its own."""
        self._body = Body(data)

    def about(self) -> dict[str, Any]:
        """All but the data, by the names of CloudEvents, and the topic."""
        said = {"id": self.id, "type": self.type, "topic": self.topic, "source": self.source, "time": self.time}
        said |= {"subject": self.subject, "dataschema": self.schema, "sequence": self.sequence}
        return said

    def message(self) -> Message:
        """This event as it travels."""
        attributes = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        attributes |= {"time": self.time, "datacontenttype": "application/json"}
        attributes |= {"subject": self.subject} if self.subject is not None else {}
        attributes |= {"dataschema": self.schema} if self.schema is not None else {}
        attributes |= {"traceparent": self.traceparent} if self.traceparent is not None else {}
        headers = {f"ce-{name}": _quoted(value) for name, value in attributes.items()}
        headers[Header.MESSAGE_ID] = f"{self.topic} {headers['ce-source']} {headers['ce-id']}"
        return Message(event(self.topic), self._body, headers=headers)

    @staticmethod
    def of(message: Message, sequence: int = 0, stored: float = 0.0) -> Event:
        """The event in a message; what its publisher left out is filled in from where it lies, and since when."""
        headers: Mapping[str, str] = message.headers or {}
        topic = topic_of(message.subject)

        def said(name: str) -> str | None:
            value = headers.get(f"ce-{name}")
            return unquote(value) if value is not None and "%" in value else value

        return Event(
            topic,
            message.body,
            id=said("id") or str(sequence),
            source=said("source") or "/",
            time=said("time") or _rfc3339(datetime.fromtimestamp(stored, UTC)),
            subject=said("subject"),
            schema=said("dataschema"),
            traceparent=said("traceparent"),
            sequence=sequence,
            type=said("type"),
        )


def _quoted(value: str) -> str:
    """A header's value, as CloudEvents writes it."""
    return value if _PLAIN.fullmatch(value) else quote(value, safe=_UNQUOTED)


def _rfc3339(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
