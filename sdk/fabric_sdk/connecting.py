"""Connecting to a fabric: to its broker, and to the processes of this host by the shortest way.

Above: `client`, the platform's processes. Below: the transports, and `patterns.gather`, which finds who is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast

from fabric_sdk.contracts import subjects
from fabric_sdk.patterns.gather import gather
from fabric_sdk.transports.base import Transport
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.transports.nearest import NearestTransport
from fabric_sdk.transports.sockets import private_folder

SOCKETS: Final = "FABRIC_SOCKETS"
"""The folder for the sockets of this host's instances, or `off`: then all messages go over the broker."""

_FIND_SECONDS: Final = 0.3


async def connect(url: str, *, name: str = "agent-fabric") -> Transport:
    """A transport to the fabric at the NATS `url`, shown there as `name`.

    Raises:
        ConfigurationError: the URL is malformed, or the server refuses its credentials.
        TransportUnavailable: no NATS server answers there.
    """
    broker = await NatsTransport.connect(url, name=name)
    folder = private_folder(os.environ.get(SOCKETS))
    return broker if folder is None else NearestTransport(broker, folder, partial(instances, broker))


async def instances(broker: Transport, agent: str, *, seconds: float = _FIND_SECONDS) -> set[str]:
    """The ids of the instances of `agent` that answer within `seconds`.

    Raises:
        TransportUnavailable: nobody can be asked now.
    """
    answers = await gather(broker, subjects.service("PING", agent), seconds=seconds)
    named = [cast("Mapping[str, Any]", answer).get("id") for answer in answers if isinstance(answer, Mapping)]
    return {each for each in named if isinstance(each, str)}
