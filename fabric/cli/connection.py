"""Which fabric a command talks to: the one its environment names, else the one running on the data folder.

Above: commands. Below: `whereabouts`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from fabric.whereabouts import Whereabouts
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import AgentUnavailable, TransportUnavailable

_CATALOGUE_SECONDS: Final = 5.0


def nats_url(data: Path | None) -> str:
    """Where the bus is.

    Raises:
        TransportUnavailable: neither the environment nor a running fabric says.
    """
    if data is None and (named := os.environ.get("FABRIC_NATS_URL")):
        return named
    if (found := Whereabouts.of(data)) is not None:
        return found.nats_url
    raise TransportUnavailable("no fabric is running here", fix="start one with `fabric up`, or set FABRIC_NATS_URL")


@asynccontextmanager
async def connected(data: Path | None) -> AsyncGenerator[Fabric]:
    """A client of that fabric."""
    async with Fabric.connect(nats_url(data)) as fabric:
        yield fabric


async def catalogue(fabric: Fabric, *, timeout: float = _CATALOGUE_SECONDS) -> dict[str, Any]:
    """Who is there, as the registry tells it.

    Raises:
        AgentUnavailable: there is NATS, but no fabric on it.
    """
    try:
        return await fabric.agent("registry").call("catalogue", timeout=timeout)
    except AgentUnavailable:
        raise AgentUnavailable(
            "NATS is there, but no registry answers", fix="start the fabric with `fabric up`"
        ) from None
