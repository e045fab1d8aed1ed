"""Keeps what the gateway knows of the agents fresh, and keeps it when the registry is away.

Above: `modern`, `legacy` and `forward`, which read `view`. Below: the registry agent, asked over the fabric like any
other. A failed refresh leaves the last good view in place: a blink of the registry, of Redis or of an agent never
empties a tool list.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
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
_DESCRIBE_SECONDS: Final = 0.5
"""How long one agent that does not describe itself may keep the others from being listed."""
_FIRST_SECONDS: Final = 3.0
"""The same for the first list of all, before which clients wait: a part of it would deny them tools that are there."""


class CatalogueKeeper:
    """The gateway's copy of the catalogue."""

    def __init__(self, fabric: Fabric, *, root: str | None = None) -> None:
        self.view = View((), root=root)
        self.ready = asyncio.Event()
        """Set once there is a catalogue, and either all of it is known or some of it does not come soon."""
        self.stale = False
        """Whether the last refresh failed."""
        self._root = root
        self._fabric = fabric
        self._descriptions: dict[str, Description] = {}  # by the agent's name
        self._asking: dict[str, asyncio.Task[Description]] = {}  # by digest
        self._wake = asyncio.Event()
        self._began = 0.0

    async def run(self) -> None:
        """Refresh on every change, and now and then in case one was missed."""
        self._began = asyncio.get_running_loop().time()
        self._fabric.transport.listen(self._connection_changed)
        await self._fabric.transport.subscribe(subjects.CATALOGUE_CHANGED, self._changed)
        while True:
            self._wake.clear()
            await self._refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._wake.wait()

    async def _refresh(self) -> None:
        try:
            await self._load()
        except Exception as failure:  # whatever it is: what is served from must not stop to be kept
            if not self.stale:
                expected = isinstance(failure, (FabricError, ValidationError))
                log.warning("the catalogue is as old as its last refresh: %s", failure, exc_info=not expected)
            self.stale = True
        else:
            if self.stale:
                log.warning("the catalogue is fresh again")
            self.stale = False
            if not self._asking or asyncio.get_running_loop().time() > self._began + _FIRST_SECONDS:
                self.ready.set()

    async def _load(self) -> None:
        catalogue: dict[str, Any] = await self._fabric.agent("registry").call("catalogue", timeout=_CALL_SECONDS)
        digests: dict[str, str] = {entry["name"]: entry["digest"] for entry in catalogue["agents"]}
        fetched = await self._fetch({name: digest for name, digest in digests.items() if self._lacks(name, digest)})
        known = self._descriptions | fetched
        # Gathered from the bus, the catalogue lacks who was slow to answer, who may well be there.
        described = known if catalogue["revision"] == 0 else {name: known[name] for name in digests if name in known}
        if described != self._descriptions:
            self.view = View(described.values(), root=self._root)
            self._descriptions = described
            log.info("now serving %r", self.view)

    def _lacks(self, name: str, digest: str) -> bool:
        return name not in self._descriptions or self._descriptions[name].digest != digest

    async def _fetch(self, wanted: dict[str, str]) -> dict[str, Description]:
        """The descriptions of these agents, but for those that do not come soon; they are there at a later refresh."""
        for digest in self._asking.keys() - set(wanted.values()):
            self._asking.pop(digest).cancel()
        for name, digest in wanted.items():
            if digest not in self._asking:
                self._asking[digest] = asyncio.create_task(self._describe(name, digest))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=_DESCRIBE_SECONDS)
        fetched: dict[str, Description] = {}
        for name, digest in wanted.items():
            if not self._asking[digest].done():
                continue
            try:
                fetched[name] = self._asking.pop(digest).result()
            except (FabricError, ValidationError) as failure:  # one bad agent must not spoil the list
                log.warning("agent %s is not listed as it is now: %s", name, failure)
        if len(fetched) < len(wanted):
            asyncio.get_running_loop().call_later(_DESCRIBE_SECONDS, self._wake.set)
        return fetched

    async def _describe(self, name: str, digest: str) -> Description:
        registry = self._fabric.agent("registry")
        asked = {"agent": name, "digest": digest}
        return Description.model_validate(await registry.call("description", asked, timeout=_CALL_SECONDS))

    def _changed(self, message: Message) -> None:
        self._wake.set()

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._wake.set()
