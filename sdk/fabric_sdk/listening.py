"""Events, on the worker's side: what an agent subscribed to becomes tasks of its own.

Above: the worker. Below: a durable group for each reaction, and tasks. An event is acknowledged once the task that
reacts to it is on the disk; its id is the task's key, so an event that is delivered twice is reacted to once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from fabric_sdk.authoring.reaction import Reaction
from fabric_sdk.cancelling import end
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.scope import Scope, Trace
from fabric_sdk.patterns.event import Membership, Received
from fabric_sdk.patterns.start import Start

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 5.0


class Listener:
    """Turns the events that an agent reacts to into its tasks."""

    def __init__(self, fabric: Fabric, agent: str, reactions: Sequence[Reaction]) -> None:
        self._fabric = fabric
        self._agent = agent
        self._listening = [asyncio.create_task(self._listen(reaction)) for reaction in reactions]

    async def close(self) -> None:
        """Take no more; what was taken is on the disk, or goes to another worker."""
        await end(self._listening)

    async def _listen(self, reaction: Reaction) -> None:
        group = f"{self._agent}-{reaction.name}"
        while True:
            try:
                async with Membership(self._fabric.jetstream, reaction.interest, group) as membership:
                    async for event in membership.events():
                        await self._react(reaction, event)
            except errors.FabricError as away:
                log.warning("%s hears no events for now: %s", reaction.name, away)
            except Exception:  # whatever an event did to it, the next ones are to be heard
                log.exception("%s stumbled over an event", reaction.name)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _react(self, reaction: Reaction, event: Received) -> None:
        try:
            start = Start(
                agent=self._agent,
                params=reaction.params(event),
                scope=Scope(0.0, None, Trace.of(event.traceparent)),
                key=f"{reaction.name}:{event.topic}:{event.source}:{event.id}",
                priority=reaction.priority,
            )
            start.digest = None  # published again under its id, it is the same event: only where it lies is another
            await self._fabric.tasks.start(start)
        except errors.FabricError as refused:
            log.warning("%s cannot react to event %s yet: %s", reaction.name, event.id, refused)
            await event.nak(_AGAIN_SECONDS)
