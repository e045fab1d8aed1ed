"""Keeps what the gateway knows of the agents fresh, and keeps it when the registry is away.

Above: `modern`, `legacy` and `forward`, which read `view`. Below: the registry agent, asked over the fabric like any
other. A failed refresh leaves the last good view in place: a blink of the registry, of Redis or of an agent never
empties a tool list.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from pydantic import ValidationError

from fabric.gateway.view import View
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.transports.base import ConnectionEvent

log = logging.getLogger(__name__)

_REFRESH_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 10.0


class CatalogueKeeper:
    """The gateway's copy of the catalogue."""

    def __init__(self, fabric: Fabric, *, root: str | None = None) -> None:
        self.view = View((), root=root)
        self.ready = asyncio.Event()
        """Set once there is a catalogue."""
        self.stale = False
        """Whether the last refresh failed."""
        self._root = root
        self._fabric = fabric
        self._descriptions: dict[str, Description] = {}  # by digest
        self._shown: tuple[str, ...] = ()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Refresh on every change, and now and then in case one was missed."""
        self._fabric.transport.listen(self._connection_changed)
        await self._fabric.transport.subscribe(subjects.CATALOGUE_CHANGED, self._changed)
        while True:
            self._wake.clear()
            await self._refresh()
            try:
                await asyncio.wait_for(self._wake.wait(), _REFRESH_SECONDS)
            except TimeoutError:
                continue

    async def _refresh(self) -> None:
        try:
            await self._load()
        except (FabricError, ValidationError) as failure:
            if not self.stale:
                log.warning("the catalogue is as old as its last refresh: %s", failure)
            self.stale = True
        else:
            if self.stale:
                log.warning("the catalogue is fresh again")
            self.stale = False
            self.ready.set()

    async def _load(self) -> None:
        registry = self._fabric.agent("registry")
        catalogue: dict[str, Any] = await registry.call("catalogue", timeout=_CALL_SECONDS)
        agents: list[dict[str, Any]] = catalogue["agents"]
        described: dict[str, Description] = {}
        for entry in agents:
            digest = entry["digest"]
            if (known := self._descriptions.get(digest)) is None:
                try:
                    answer = await registry.call(
                        "description", {"agent": entry["name"], "digest": digest}, timeout=_CALL_SECONDS
                    )
                    known = Description.model_validate(answer)
                except FabricError as failure:  # one bad agent must not spoil the list
                    log.warning("agent %s is not listed yet: %s", entry["name"], failure)
                    self._wake_later()
                    continue
            described[digest] = known
        if catalogue["revision"] == 0:  # gathered from the bus: who was slow to answer may well be there
            described = self._descriptions | described
        shown = tuple(described)
        if shown != self._shown:
            self.view = View(described.values(), root=self._root)
            log.info("now serving %r", self.view)
        self._descriptions, self._shown = described, shown

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(0.5, self._wake.set)

    def _changed(self, message: Message) -> None:
        self._wake.set()

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._wake.set()
