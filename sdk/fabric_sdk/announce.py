"""How an instance makes itself known, on the bus alone: heartbeats for the registry, and NATS micro service verbs.

Above: the worker. Below: a transport. `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` answer as ADR-32 says, for all, for
this agent, for each of its capabilities and for this instance, so `nats micro` sees every agent. nats-py's own
`nats.micro` ties a service to one client object, which a supervised connection replaces (ADR 2); hence these few lines
over the seam.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.transports.base import ConnectionEvent, Subscription, Transport

BEAT_INTERVAL: Final = 5.0
"""Seconds between heartbeats; a lease lasts three of them."""

_MOST_SAID: Final = 1024
"""Characters of a text in an answer to `$SRV`, which has to fit into a message whatever an author or an error says."""

_SEMVER: Final = re.compile(r"\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?")


def beat_in(stats: Any) -> Beat | None:
    """The heartbeat in an answer to `$SRV.STATS`; `None` in those of other micro services."""
    try:
        return Beat.model_validate(stats["endpoints"][0]["data"]["beat"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


class Load(NamedTuple):
    """How busy an instance is."""

    capacity: int
    running: int
    waiting: int
    served: int
    failed: int
    spent: float
    """Seconds from taking a call to answering it, summed over all calls."""
    last_error: str


class Announcer:
    """Says that one instance is there until it is closed."""

    def __init__(self, transport: Transport, description: Description, instance: str, load: Callable[[], Load]) -> None:
        self._transport = transport
        self._description = description
        self._instance = instance
        self._load = load
        self._started = time.time()
        self._state: Literal["ready", "draining", "gone"] = "ready"
        self._subscriptions: list[Subscription] = []
        self._beating: list[asyncio.Task[None]] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._now = asyncio.Event()

    async def open(self) -> None:
        """Answer to `$SRV` and begin to beat."""
        name = self._description.name
        named = (name, *map(subjects.having, self._description.capabilities))
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for scope in ((), *((each,) for each in named), *((each, self._instance) for each in named)):
                subject = subjects.service(verb, *scope)
                self._subscriptions.append(await self._transport.subscribe(subject, self._answering(answer)))
        self._stop_listening = self._transport.listen(self._connection_changed)
        await self._beat()
        self._beating = [keep_on(self._beat_on, f"the heartbeat of {name}")]

    def redescribe(self, description: Description) -> None:
        """Say that the agent offers something else from now on."""
        self._description = description
        self._now.set()

    def draining(self) -> None:
        """Say at once that no more calls are taken."""
        self._state = "draining"
        self._now.set()

    async def close(self) -> None:
        """Say goodbye."""
        await end(self._beating)
        self._stop_listening()
        self._state = "gone"
        await self._beat()
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))

    def beat(self) -> Beat:
        """The heartbeat of this moment."""
        load = self._load()
        return Beat(
            agent=self._description.name,
            instance=self._instance,
            version=self._description.version,
            digest=self._description.digest,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            state=self._state,
            capabilities=self._description.capabilities,
            labels=self._description.labels,
            capacity=load.capacity,
            running=load.running,
            waiting=load.waiting,
            served=load.served,
            failed=load.failed,
        )

    async def _beat_on(self) -> None:
        while self._state != "gone":
            with suppress(TimeoutError):  # and not `wait_for`, which would swallow the end as it comes with `draining`
                async with asyncio.timeout(BEAT_INTERVAL):
                    await self._now.wait()
            self._now.clear()
            await self._beat()

    async def _beat(self) -> None:
        subject = subjects.beat(self._description.name, self._instance)
        try:
            await self._transport.publish(Message(subject, Body(self.beat().model_dump())))
        except errors.TransportUnavailable:
            return  # the next one tells

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._now.set()

    def _answering(self, answer: Callable[[], dict[str, Any]]) -> Callable[[Message], None]:
        def receive(message: Message) -> None:
            if message.reply:
                sending = asyncio.get_running_loop().create_task(self._send(Message(message.reply, Body(answer()))))
                self._answers.add(sending)
                sending.add_done_callback(self._answers.discard)

        return receive

    async def _send(self, message: Message) -> None:
        try:
            await self._transport.publish(message)
        except errors.FabricError:
            return  # whoever asked asks again

    def _identity(self, kind: str) -> dict[str, Any]:
        version, capabilities = self._description.version, ",".join(self._description.capabilities)
        metadata = {"fabric.digest": self._description.digest, "fabric.kind": self._description.kind}
        if capabilities:
            metadata["fabric.capabilities"] = capabilities
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": self._description.name,
            "id": self._instance,
            "version": version if _SEMVER.fullmatch(version) else "0.0.0",  # ADR-32 demands SemVer
            "metadata": metadata,
        }

    def _endpoint(self) -> dict[str, Any]:
        return {"name": "call", "subject": subjects.calls(self._description.name), "queue_group": subjects.POOL}

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def _info(self) -> dict[str, Any]:
        tools = ",".join(str(tool.get("name")) for tool in self._description.tools)[:_MOST_SAID]
        description = (self._description.description or "")[:_MOST_SAID]
        endpoint = self._endpoint() | {"metadata": {"tools": tools}}
        return self._identity("info") | {"description": description, "endpoints": [endpoint]}

    def _stats(self) -> dict[str, Any]:
        load = self._load()
        endpoint = self._endpoint() | {
            "num_requests": load.served + load.failed,
            "num_errors": load.failed,
            "last_error": load.last_error[:_MOST_SAID],
            "processing_time": int(load.spent * 1e9),
            "average_processing_time": int(load.spent * 1e9 / max(1, load.served + load.failed)),
            "data": {"beat": self.beat().model_dump()},
        }
        started = datetime.fromtimestamp(self._started, UTC).isoformat().replace("+00:00", "Z")
        return self._identity("stats") | {"started": started, "endpoints": [endpoint]}
