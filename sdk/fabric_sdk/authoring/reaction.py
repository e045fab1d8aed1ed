"""A reaction: an author's function that is run for each event its agent subscribes to.

Above: `Agent`. Below: `Signature`'s world is JSON; here the argument is an `Event`. A reaction runs as a task, so it
has a task's guarantees: its attempts, its dead letters, its `once` and `checkpoint`. The transformation is part of it:
an event that does not fit becomes a dead letter, to be redriven once the transformation is mended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fabric_sdk.authoring.signature import only_parameter
from fabric_sdk.context import Context
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import ConfigurationError, FabricError, HandlerRaised, InvalidParams
from fabric_sdk.contracts.event import Event
from fabric_sdk.contracts.subjects import checked_token
from fabric_sdk.contracts.task import Policy, Priority, checked_policy
from fabric_sdk.patterns.event import Interest, interest
from fabric_sdk.routing.expressions import Expression

MARK: Final = "on/"
"""Before a reaction's name, where a tool's name stands: no tool can be called so."""


class Reaction:
    """One subscription of an agent, and what it does about the events."""

    def __init__(
        self,
        topics: tuple[str, ...],
        function: Callable[..., Any],
        *,
        filter: str | None = None,
        transform: str | None = None,
        policy: Policy | None = None,
        priority: Priority = "normal",
    ) -> None:
        self.name = checked_token(getattr(function, "__name__", ""))
        self.interest: Interest = interest(topics, filter=filter)
        self._transform = Expression(transform) if transform else None
        self.policy = checked_policy(policy) or Policy()
        self.priority: Priority = priority
        self._function = function
        if (parameters := only_parameter(function)) is None:
            raise ConfigurationError(
                f"{self.name} cannot react to events", fix="write `async def …(event: Event)`, with a Context if wanted"
            )
        self._event, self._context = parameters

    def params(self, event: Event) -> Body:
        """The task that reacting to `event` is."""
        return Body({"name": MARK + self.name, "arguments": {"event": event.about(), "data": event.data}})

    async def react(self, arguments: dict[str, Any], context: Context) -> Body:
        """Run the function for the event in a task's arguments."""
        event = _event_in(arguments)
        if self._transform is not None:
            event.transform(self._transform.transformed(event))
        given: dict[str, Any] = {self._event: event}
        if self._context is not None:
            given[self._context] = context
        try:
            await self._function(**given)
        except FabricError:
            raise
        except (Exception, SystemExit) as failure:  # its policy decides what becomes of it
            raise HandlerRaised.of(failure) from failure
        return Body({"content": [], "resultType": "complete"})


def _event_in(arguments: dict[str, Any]) -> Event:
    """The event that `Reaction.params` put there."""
    try:
        about: dict[str, Any] = arguments["event"]
        return Event(
            about["topic"],
            Body(arguments["data"]),
            id=about["id"],
            source=about["source"],
            time=about["time"],
            subject=about.get("subject"),
            schema=about.get("dataschema"),
            sequence=about.get("sequence", 0),
            type=about.get("type"),
        )
    except (LookupError, TypeError, AttributeError) as foreign:
        raise InvalidParams("the task of a reaction brings an event") from foreign
