"""Topics that a call is about: of the platform's own tools, two publish events and read them, for whoever calls.

Above: `gate`. Below: what the agent `durable` offers. Pure. Agents on the bus publish and subscribe without a gateway,
and are trusted as the bus is.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, cast

from fabric.gateway.rpc import INVALID_PARAMS, Refusal
from fabric.gateway.view import Route

_PUBLISH: Final = "publish_event"
_SUBSCRIBE: Final = "replay_events"
_EVERY: Final = ">"


class TopicAct(NamedTuple):
    """What a rule may speak of."""

    verb: Literal["publish", "subscribe"]
    topic: str
    """Or the pattern of a subscription."""
    data: Any = None
    """Of the event."""


def about_topics(route: Route) -> bool:
    """Whether calls there are about topics."""
    return route.of_platform and route.agent == "durable" and route.name in (_PUBLISH, _SUBSCRIBE)


def topic_acts(route: Route, arguments: Any) -> list[TopicAct]:
    """What a call with these arguments does with topics.

    Raises:
        Refusal: they do not say which.
    """
    given = cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}
    if route.name == _PUBLISH:
        return [TopicAct("publish", topic, given.get("data")) for topic in _checked([given.get("topic")])]
    return [TopicAct("subscribe", topic) for topic in _checked(given.get("topics") or [_EVERY])]


def _checked(stated: Any) -> list[str]:
    topics = cast("list[Any]", stated) if isinstance(stated, list) else [None]
    if not all(isinstance(topic, str) for topic in topics):
        raise Refusal(INVALID_PARAMS, "params.arguments must say which topics, as strings")
    return cast("list[str]", topics)
