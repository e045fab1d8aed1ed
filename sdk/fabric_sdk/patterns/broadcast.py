"""Broadcast: one call to every instance of an agent, or of all that have a capability, and all their answers.

Guarantee: **one answer or one error from each instance that was there** when it was asked who is; of one that has left
since, at once. Above: `remote`. Below: discovery by `$SRV.PING`, and ordinary calls, each to its instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.patterns.call import Call, Caller
from fabric_sdk.patterns.gather import gather

_DISCOVERY_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Answer:
    """What one instance answered."""

    instance: str
    body: Body | None = None
    error: errors.FabricError | None = None


async def broadcast(caller: Caller, agent: str, call_to: Callable[[str], Call]) -> list[Answer]:
    """Call every instance of `agent`, and wait for all; `call_to` makes the call for one.

    Raises:
        AgentUnavailable: it has no instance.
        TransportUnavailable: nobody can be asked.
    """
    found = await gather(caller.transport, subjects.service("PING", agent), seconds=_DISCOVERY_SECONDS)
    said = [cast("dict[str, Any]", each) for each in found if isinstance(each, dict)]
    instances = sorted({str(each["id"]) for each in said if "id" in each})
    if not instances:
        raise errors.AgentUnavailable(f"{subjects.who(agent)} has no instance")
    return list(await asyncio.gather(*(_ask(caller, call_to(instance), instance) for instance in instances)))


async def _ask(caller: Caller, call: Call, instance: str) -> Answer:
    try:
        return Answer(instance, body=await caller.call(call))
    except errors.FabricError as failure:
        return Answer(instance, error=failure)
