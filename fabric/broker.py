"""Connecting to the bus for processes that outlive it: they wait for a broker that is not there yet.

Above: worker and gateway processes. Below: the SDK's transports.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from fabric_sdk.connecting import connect
from fabric_sdk.contracts.errors import TransportUnavailable
from fabric_sdk.transports.base import Transport

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 2.0


async def connect_until(stop: asyncio.Event, url: str, *, name: str) -> Transport | None:
    """Connect as soon as the broker is there; `None` if `stop` was set before.

    Raises:
        ConfigurationError: the URL is no NATS URL, or the broker refuses the credentials in it.
    """
    while not stop.is_set():
        try:
            return await connect(url, name=name)
        except TransportUnavailable as away:
            log.warning("%s; trying again", away)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RETRY_SECONDS)
    return None
