"""Pools that run grow and shrink with the configuration.

Above: `node`, `fabric worker`. Below: `fabric.process`, `fabric.live`. A pool that cannot grow stays as it was; one
that shrinks drains what it gives up, and loses no call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fabric.live import Announcer, LiveSettings, following
from fabric.pool.specs import mistakes_told
from fabric.process import Copies
from fabric.settings import Settings
from fabric.settings.passing import LiveFile
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts.errors import FabricError

log = logging.getLogger(__name__)


class Sizes:
    """Keeps pools, by their names in the configuration, as large as it says."""

    def __init__(self, pools: Mapping[str, Copies], run: Path) -> None:
        self._pools = {name: _Size(name, copies, run) for name, copies in pools.items()}

    def follow(self, settings: Settings) -> None:
        """Have them so large soon."""
        for name, pool in settings.pools.items():
            if name in self._pools:
                self._pools[name].want(pool.processes)

    async def run(self) -> None:
        """Scale until cancelled; each pool for itself, as one may take long to drain."""
        async with asyncio.TaskGroup() as pools:
            for pool in self._pools.values():
                pools.create_task(pool.run())


@asynccontextmanager
async def followed(
    live: LiveSettings, pools: Mapping[str, Copies], file: LiveFile, run: Path, announcer: Announcer
) -> AsyncGenerator[None]:
    """Held open by a supervisor: what changes live reaches its processes, by `file`, and its pools."""
    sizes = Sizes(pools, run)
    live.listen(lambda change: file.write(change.settings))
    live.listen(lambda change: sizes.follow(change.settings))
    scaling = keep_on(sizes.run, "keeping pools as large as the configuration says")
    try:
        async with following(live, announcer):
            yield
    finally:
        await end([scaling])


class _Size:
    def __init__(self, name: str, copies: Copies, run: Path) -> None:
        self._name = name
        self._copies = copies
        self._folder = run
        self._wanted = len(copies.names)
        self._woken = asyncio.Event()

    def want(self, processes: int) -> None:
        self._wanted = processes
        self._woken.set()

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self._scale(self._wanted)

    async def _scale(self, wanted: int) -> None:
        before = len(self._copies.names)
        if before == wanted:
            return
        try:
            with mistakes_told(self._folder):
                await self._copies.scale(wanted)
        except FabricError as failure:
            log.error("pool %s keeps its %d processes: %s", self._name, before, failure)
        else:
            log.info("pool %s has %d processes, after %d", self._name, wanted, before)
