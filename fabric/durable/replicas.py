"""Does every replica of every stream hold what the others hold? nats-server does not look itself (nats-server #7549).

Above: `fabric doctor`, the durable agent. Below: the servers' own monitoring, over the system account. A replica that
lost messages to a damaged disk says nothing and may even become the leader; only counting side by side shows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, cast

from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.patterns.gather import gather
from fabric_sdk.transports.base import Transport
from fabric_sdk.transports.nats import NatsTransport

log = logging.getLogger(__name__)

ALARM: Final = "fabric.alarm.replica"
"""The topic of alarms: `{"stream", "server", "missing"}`."""
LOOKS: Final = 3
"""Looks in a row in which a replica must lack messages: one that is only behind catches up in between."""
BETWEEN: Final = 5.0
"""Seconds between two looks."""
_WATCH_SECONDS: Final = 60.0
_GATHER_SECONDS: Final = 1.0
_IN_FLIGHT: Final = 64
"""Messages that may be missing while a stream is written to: acknowledgements reach replicas one after the other."""
_QUESTION: Final = "$SYS.REQ.SERVER.PING.JSZ"


@dataclass(frozen=True, slots=True)
class Replica:
    """What one server says of its copy of a stream."""

    server: str
    messages: int
    last: int
    """The sequence of the last message that was ever stored."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One replica that has silently lost messages."""

    stream: str
    server: str
    missing: int

    def __str__(self) -> str:
        return f"the copy of {self.stream} on {self.server} lacks {self.missing} messages that others have"


Look = Mapping[str, tuple[Replica, ...]]
"""The replicas of each stream, by `account/stream`."""


def replicas_in(answers: Iterable[Any]) -> Look:
    """What the servers answered, sorted by stream."""
    found: defaultdict[str, list[Replica]] = defaultdict(list)
    for answer in answers:
        try:
            replicas = list(_replicas_of(answer))
        except (AttributeError, KeyError, TypeError, ValueError) as malformed:
            _tell_once(f"{type(malformed).__name__}: {malformed}")  # of the others, there is still something to say
            continue
        for stream, replica in replicas:
            found[stream].append(replica)
    return {name: tuple(copies) for name, copies in found.items()}


def _replicas_of(answer: dict[str, Any]) -> Generator[tuple[str, Replica]]:
    """What one server has, each with the name of its stream."""
    data, server = answer.get("data", {}), str(answer.get("server", {}).get("name", "?"))
    for account in cast("list[dict[str, Any]]", data.get("account_details") or ()):
        for stream in cast("list[dict[str, Any]]", account.get("stream_detail") or ()):
            state = stream["state"]
            replica = Replica(server, int(state["messages"]), int(state["last_seq"]))
            yield f"{account['name']}/{stream['name']}", replica


@lru_cache(maxsize=64)  # who answers so does it at every look
def _tell_once(malformed: str) -> None:
    log.warning("a server said what cannot be read of its replicas, and is not compared: %s", malformed)


def lacking(before: Look, now: Look) -> dict[tuple[str, str], int]:
    """How many messages each replica lacks beside the fullest one, by stream and server; only those that lack any."""
    missing: dict[tuple[str, str], int] = {}
    for stream, copies in now.items():
        fullest = max(copies, key=lambda copy: copy.messages)
        still = {copy.last for copy in (*copies, *before.get(stream, ()))} == {fullest.last}
        for copy in copies:
            lag = max(0, fullest.last - copy.last)
            lack = fullest.messages - copy.messages - lag
            if lack > (0 if still else _IN_FLIGHT):
                missing[stream, copy.server] = lack
    return missing


async def look(system: Transport) -> Look:
    """Ask every server, once.

    Raises:
        TransportUnavailable: nobody can be asked.
    """
    question = Body({"accounts": True, "streams": True})
    return replicas_in(await gather(system, _QUESTION, seconds=_GATHER_SECONDS, body=question))


async def audit(system: Transport, *, between: float = BETWEEN) -> list[Alarm]:
    """Look several times, and return the replicas that lacked messages each time.

    Args:
        system: a connection to the system account.
        between: seconds between two looks.

    Raises:
        TransportUnavailable: nobody can be asked.
    """
    seen = await look(system)
    lacks: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for _ in range(LOOKS):
        await asyncio.sleep(between)
        before, seen = seen, await look(system)
        now = lacking(before, seen)
        for stream, copies in seen.items():  # who did not answer in time is neither accused nor cleared by it
            for copy in copies:
                lacks[stream, copy.server].append(now.get((stream, copy.server), 0))
    return [Alarm(*key, min(lack)) for key, lack in sorted(lacks.items()) if len(lack) > 1 and all(lack)]


async def watch(fabric: Fabric, system_url: str) -> None:
    """Audit again and again; each alarm is logged, and published as an event on `ALARM`, once for as long as it lasts.

    Ends when it is cancelled, and never by itself: without the servers' answers, it says so and tries again.
    """
    raised: set[tuple[str, str]] = set()
    while True:
        try:
            system = await NatsTransport.connect(system_url, name="agent-fabric-audit")
            try:
                while True:
                    alarms = await audit(system)
                    for alarm in alarms:
                        if (alarm.stream, alarm.server) not in raised:
                            log.error("%s: stop that server, remove its copy, and let it be made anew", alarm)
                            await fabric.publish(ALARM, asdict(alarm))
                    raised = {(alarm.stream, alarm.server) for alarm in alarms}
                    await asyncio.sleep(_WATCH_SECONDS)
            finally:
                await system.close()
        except FabricError as away:
            log.warning("the replicas of streams cannot be compared: %s", away)
            await asyncio.sleep(_WATCH_SECONDS)
