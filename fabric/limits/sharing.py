"""Evens out the limits of all gateways: tells the registry what this one let through, and takes in what all did.

Above: the gateway, which runs it beside its work. Below: the registry's tool `spend`, asked over the fabric like any
other. No call waits for it: while the registry or Redis is away, this gateway goes on with what it counts itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final
from uuid import uuid4

from pydantic import TypeAdapter

from fabric.limits.limiter import Limiter
from fabric.limits.spending import Standing
from fabric_sdk import Fabric, FabricError

log = logging.getLogger(__name__)

INTERVAL: Final = 0.2
"""Seconds between two exchanges."""
_CALL_SECONDS: Final = 2.0
_STANDINGS: Final = TypeAdapter(list[Standing])


class Sharing:
    """One gateway's exchange with all others."""

    def __init__(self, limiter: Limiter, fabric: Fabric) -> None:
        self._limiter = limiter
        self._registry = fabric.agent("registry")
        self._spender = uuid4().hex
        self._away = False

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.exchange()

    async def exchange(self) -> None:
        """Tell and take in once. What cannot be told now is told the next time, and counted once."""
        now = time.monotonic()
        self._limiter.tick(now, time.time())
        if (report := self._limiter.report(now)) is None:
            return
        spent = [each.model_dump() for each in report.spent]
        asked = {"spender": self._spender, "number": report.number, "spent": spent}
        try:
            answer = await self._registry.call("spend", asked, timeout=_CALL_SECONDS)
            self._limiter.settle(_STANDINGS.validate_python(answer))
        except Exception as failure:  # whatever it is: the day must go on turning, and idle buckets must go
            if not self._away:
                expected = isinstance(failure, (FabricError, ValueError))
                log.warning("each gateway counts its limits by itself for now: %s", failure, exc_info=not expected)
            self._away = True
        else:
            if self._away:
                log.warning("the gateways count their limits together again")
            self._away = False
