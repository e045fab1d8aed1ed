"""The way in: `async with Fabric.connect() as fabric: await fabric.agent("reader").call("read", {...})`.

Above: authors and the command line. Below: the patterns, over a transport. Results come back as Python values.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Literal, TypedDict

from typing_extensions import Unpack

from fabric_sdk.connecting import connect
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.event import Event
from fabric_sdk.contracts.options import check_options
from fabric_sdk.contracts.subjects import checked_address, having
from fabric_sdk.handle import Task
from fabric_sdk.jetstream import JetStream
from fabric_sdk.patterns.call import Caller
from fabric_sdk.patterns.conversation import Conversation
from fabric_sdk.patterns.dead import DeadLetters
from fabric_sdk.patterns.event import Events, Received, interest
from fabric_sdk.patterns.schedule import Schedules
from fabric_sdk.patterns.schema import Schemas
from fabric_sdk.patterns.start import Start
from fabric_sdk.patterns.task import Tasks
from fabric_sdk.remote import AgentClient
from fabric_sdk.transports.base import Transport


class Wanted(TypedDict, total=False):
    """What a subscriber wants of events."""

    filter: str
    """A CEL expression over `event` and `data`; only events for which it is true come."""
    transform: str
    """A CEL expression; what it makes of an event is what the subscriber sees as its `data`."""
    start: datetime | int | Literal["new", "all"]
    """Where to begin: at a time, at a place (an event's `sequence`), with what is new, or with all that is kept."""
    original_speed: bool
    """Whether events come as far apart as they were published."""


class Fabric:
    """A connection to a fabric, over any transport."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.caller = Caller(transport)
        self.jetstream = JetStream(transport)
        self.tasks = Tasks(self.jetstream)
        self.schedules = Schedules(self.jetstream)
        self.dead = DeadLetters(self.jetstream)
        self.schemas = Schemas(self.jetstream)
        self.events = Events(self.jetstream, self.schemas)

    @staticmethod
    @asynccontextmanager
    async def connect(url: str | None = None) -> AsyncGenerator[Fabric]:
        """Connect to the fabric at the NATS `url`, by default that of the environment's `FABRIC_NATS_URL`.

        Raises:
            ConfigurationError: there is no URL.
            TransportUnavailable: no NATS server answers there.
        """
        url = url or os.environ.get("FABRIC_NATS_URL")
        if not url:
            raise errors.ConfigurationError(
                "no fabric to connect to", fix="start one with `fabric up` and set FABRIC_NATS_URL to the URL it prints"
            )
        transport = await connect(url)
        try:
            async with Fabric.over(transport) as fabric:
                yield fabric
        finally:
            await transport.close()

    @staticmethod
    @asynccontextmanager
    async def over(transport: Transport) -> AsyncGenerator[Fabric]:
        """A client over a transport that is open already, and stays open."""
        fabric = Fabric(transport)
        await fabric.caller.open()
        try:
            yield fabric
        finally:
            await fabric.caller.close()
            await fabric.schemas.close()
            await fabric.jetstream.close()

    async def publish(self, topic: str, data: Any, *, id: str | None = None, subject: str | None = None) -> Event:
        """Tell what happened, to whoever wants to know: returns once the fabric has it on the disk.

        Args:
            topic: what kind of thing happened: words between dots, as `orders.created`.
            data: a JSON value; where a schema is registered for the topic, one that fits it.
            id: names the event among those of its topic; published again within two minutes, it changes nothing.
                In a task, the same data has the same id in every attempt, unless said otherwise.
            subject: what it happened to.

        Raises:
            InvalidParams: the topic is none, or the data is no JSON value or does not fit the topic's schema.
            QueueFull: the stream takes no more; try again later.
            TransportUnavailable: the broker did not answer; with the same `id` it may be published again.
        """
        return await self.events.publish(topic, data, id=id, subject=subject)

    def subscribe(
        self, *topics: str, group: str | None = None, **how: Unpack[Wanted]
    ) -> AbstractAsyncContextManager[AsyncGenerator[Received]]:
        """Events as they come: `async with fabric.subscribe("orders.*") as events: async for event in events: …`

        Without a group, each event comes once and in order, from `start` on, as long as this subscriber lives. With a
        group, the events are shared by its members, and remembered for it: each comes until a member acknowledged it,
        which asking for the next one does.

        Args:
            topics: patterns; `*` stands for one word, `>` at the end for the rest.
            group: the name of a durable group; where it begins is settled by its first member.
            how: see `Wanted`.

        Raises:
            InvalidParams: a topic, an expression or a time is none.
        """
        check_options("Fabric.subscribe", how, Wanted)
        wanted = interest(topics, **how)
        return self.events.subscribe(wanted, group) if group else self.events.read(wanted)

    def replay(
        self, *topics: str, until: datetime | int | None = None, **how: Unpack[Wanted]
    ) -> AbstractAsyncContextManager[AsyncGenerator[Received]]:
        """Events that happened, in order, and then the end: from `start` (all that is kept, by default) to `until`.

        Args:
            topics: patterns; `*` stands for one word, `>` at the end for the rest.
            until: a time or a place (an event's `sequence`); the end as it is now, by default.
            how: see `Wanted`.

        Raises:
            InvalidParams: a topic, an expression or a time is none.
        """
        check_options("Fabric.replay", how, Wanted)
        how.setdefault("start", "all")
        return self.events.replay(interest(topics, **how), until)

    def conversation(self, conversation_id: str, *, keep: float | None = None) -> Conversation:
        """What is remembered of a conversation: kept outside every process, the same after a restart of everything.

        Args:
            conversation_id: letters, digits, hyphens, underscores.
            keep: seconds after the last append for which it is remembered; three months unless said otherwise.

        Raises:
            ConfigurationError: nothing can be called so.
        """
        return Conversation(self.jetstream, conversation_id, keep)

    async def start_all(self, starts: Sequence[Start]) -> list[Task]:
        """Start up to a thousand tasks, made by `AgentClient.plan`: all are accepted, or none.

        A batch whose keys were all started before joins those tasks, so it can be repeated without harm.

        Raises:
            KeyReused: a key names a task of another tool, or one with other arguments.
            InvalidParams: they are none or too many, one is for later, or some of them were started before.
            FabricError: as `AgentClient.start`.
        """
        fresh = await self.tasks.start_all(starts)
        return [Task(self.tasks, start.agent, start.id, joined=not fresh and start.key is not None) for start in starts]

    def agent(self, name: str) -> AgentClient:
        """The agent called `name`, wherever its instances are; `@translate` is `capability("translate")`.

        Raises:
            ConfigurationError: nothing can have this name.
        """
        return AgentClient(self.caller, self.tasks, self.schedules, checked_address(name))

    def capability(self, name: str) -> AgentClient:
        """Whoever has this capability, as if all of them were instances of one agent.

        One of them takes each call and opens each stream, the broker chooses which; tasks and schedules wait in a
        queue of the capability's own; a broadcast reaches all. Nobody is looked up, and nobody has to be there yet.

        Raises:
            ConfigurationError: there can be no such capability.
        """
        return self.agent(having(name))
