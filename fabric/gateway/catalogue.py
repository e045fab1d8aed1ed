"""Keeps what the gateway knows of the agents fresh, and keeps it when the registry is away.

Above: `views`, by which all others read it. Below: the registry agent, asked over the fabric like any
other. A failed refresh leaves the last good view in place: a blink of the registry, of Redis or of an agent never
empties a tool list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError

from fabric.gateway.view import View, mounted
from fabric.logs import Once
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Message
from fabric_sdk.transports.base import ConnectionEvent

log = logging.getLogger(__name__)

_REFRESH_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 10.0
_DESCRIBE_SECONDS: Final = 0.5
"""How long one agent that does not describe itself may keep the others from being listed; then it is asked again, …"""
_LONGEST_WAIT: Final = 30.0
"""… and each time after twice as long, up to this."""
_FIRST_SECONDS: Final = 3.0
"""The same for the first list of all, before which clients wait: a part of it would deny them tools that are there."""
_ROOT_SECONDS: Final = 10.0
"""How long the root may be away before somebody has to be told; pools start beside the gateway, or after it."""


class CatalogueKeeper:
    """The gateway's copy of the catalogue."""

    def __init__(self, fabric: Fabric, *, root: str | None = None) -> None:
        self.descriptions: dict[str, Description] = {}
        """What each agent offers, by its name."""
        self.view = View(())
        """What there is without the platform's own agents."""
        self.ready = asyncio.Event()
        """Set once there is a catalogue, and either all of it is known or some of it does not come soon."""
        self.stale = False
        """Whether the last refresh failed."""
        self._root = root
        self._fabric = fabric
        self._listeners: list[Callable[[], None]] = []
        self._asking: dict[tuple[str, str], asyncio.Task[Description]] = {}  # by name and digest
        self._once = Once(log)
        self._wake = asyncio.Event()
        self._began = 0.0
        self._rooted = 0.0  # when the root was last seen

    def listen(self, tell: Callable[[], None]) -> None:
        """Tell of every change of the catalogue."""
        self._listeners.append(tell)

    async def run(self) -> None:
        """Refresh on every change, and now and then in case one was missed."""
        loop = asyncio.get_running_loop()
        self._began = self._rooted = loop.time()
        loop.call_later(_FIRST_SECONDS, self._wake.set)
        self._fabric.transport.listen(self._connection_changed)
        await self._fabric.transport.subscribe(subjects.CATALOGUE_CHANGED, self._changed)
        try:
            while True:
                self._wake.clear()
                await self._refresh()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_REFRESH_SECONDS):
                        await self._wake.wait()
        finally:
            for asking in self._asking.values():
                asking.cancel()

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
            self._look_for_root(asyncio.get_running_loop().time())

    def _look_for_root(self, now: float) -> None:
        if self._root is None or self.view.rooted:
            self._rooted = now
        elif now > self._rooted + _ROOT_SECONDS:
            self._once.warning(
                "root",
                "the root agent %r is not there: no tool is shown without a prefix; start it, or set FABRIC_ROOT or "
                "--root to one that `fabric ps` lists",
                self._root,
            )

    async def _load(self) -> None:
        catalogue: dict[str, Any] = await self._fabric.agent("registry").call("catalogue", timeout=_CALL_SECONDS)
        digests: dict[str, str] = {entry["name"]: entry["digest"] for entry in catalogue["agents"]}
        fetched = await self._fetch({name: digest for name, digest in digests.items() if self._lacks(name, digest)})
        known = self.descriptions | fetched
        # Gathered from the bus, the catalogue lacks who was slow to answer, who may well be there.
        described = known if catalogue["revision"] == 0 else {name: known[name] for name in digests if name in known}
        if described != self.descriptions:
            self.descriptions = described
            self.view = View(mounted(described.values(), root=self._root))
            log.info("now serving %r", self.view)
            for tell in self._listeners:
                tell()

    def _lacks(self, name: str, digest: str) -> bool:
        return name not in self.descriptions or self.descriptions[name].digest != digest

    async def _fetch(self, wanted: dict[str, str]) -> dict[str, Description]:
        """The descriptions of these agents, but for those that do not come soon; they are there at a later refresh."""
        for key in self._asking.keys() - wanted.items():
            self._asking.pop(key).cancel()
        lacked = [key for key in wanted.items() if key not in self._asking]
        if new := {key: asyncio.create_task(self._describe(*key)) for key in lacked}:
            self._asking |= new
            _, late = await asyncio.wait(new.values(), timeout=_DESCRIBE_SECONDS)
            for each in late:
                each.add_done_callback(lambda _: self._wake.set())
        come = [key for key, asking in self._asking.items() if asking.done()]
        return {name: self._asking.pop((name, digest)).result() for name, digest in come}

    async def _describe(self, name: str, digest: str) -> Description:
        """Ask until the answer is good, and ever more seldom: one bad agent must not spoil the list or keep us busy."""
        registry = self._fabric.agent("registry")
        asked = {"agent": name, "digest": digest}
        wait = _DESCRIBE_SECONDS
        while True:
            try:
                answer = await registry.call("description", asked, timeout=_CALL_SECONDS)
                return Description.model_validate(answer).as_asked(name, digest)
            except (FabricError, ValueError) as failure:
                self._once.warning((name, digest), "agent %s is not listed as it is now: %s", name, failure)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _changed(self, message: Message) -> None:
        self._wake.set()

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._wake.set()
