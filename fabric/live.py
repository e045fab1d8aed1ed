"""Settings that change while a process runs: followed, checked whole, taken or refused whole, and told.

Above: every process of the platform. Below: `settings`, `watching`. Whoever uses a live setting listens here; the
level of logs is set here, as every process has one. It refuses to know what the others are used for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fabric import logs
from fabric.settings import Configuration, Settings
from fabric.settings.keys import changed, is_live, merged
from fabric.settings.loading import Inputs, gather, resolve
from fabric.settings.places import find
from fabric.watching import Followed
from fabric_sdk import Fabric, FabricError
from fabric_sdk.cancelling import end, keep_on

log = logging.getLogger(__name__)

CHANGED: Final = "fabric.config.changed"
"""The topic of the event that tells of a change."""

Check = Callable[[Settings, Settings], None]
"""Looks at what the model cannot: the settings that hold, and those that are to. Raises ConfigurationError."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a new configuration."""

    settings: Settings
    """Those that hold now."""
    applied: tuple[str, ...]
    """The keys that changed."""
    restart: tuple[str, ...]
    """The keys that stay as they were until a restart."""
    file: Path | None

    def told(self, process: str) -> dict[str, Any]:
        """As the event says it: no values, as one of them may be a secret one day."""
        return {
            "host": socket.gethostname(),
            "process": process,
            "file": str(self.file) if self.file else None,
            "applied": list(self.applied),
            "restart": list(self.restart),
        }


def _pass(old: Settings, new: Settings) -> None:
    """Nothing more to look at."""


class LiveSettings:
    """The settings that hold now."""

    def __init__(
        self,
        config: Path | None = None,
        given: Mapping[str, Any] | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        check: Check = _pass,
    ) -> None:
        """Read them.

        Args:
            config: the file, if one was typed.
            given: from a command line, `None` for what was not typed.
            defaults: in place of the model's.
            check: what else has to be right.

        Raises:
            SettingsError: one line for each wrong setting.
            ConfigurationError: the file that is named is not there, or the check found something.
        """

        self.settings = Settings.model_construct()

        def parse(inputs: Inputs) -> Configuration:
            configuration = resolve(inputs, given or {}, defaults=defaults)
            check(self.settings, configuration.settings)
            return configuration

        # What a setting names may be mended though the file that names it stays the same.
        self._kept = Followed("configuration", find(config), read=gather, parse=parse, persistent=True)
        self._kept.listen(self._take)
        self._listeners: list[Callable[[Change], None]] = []
        self.settings = self._kept.value.settings

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` with each change, once it holds."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow the file until cancelled."""
        await self._kept.run()

    def hear_hangup(self) -> None:
        """Reload at SIGHUP, unless a terminal says by it that it closed."""
        if not _has_terminal():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Read the file anew, and tell of it even if nothing changed."""
        self._kept.reload()

    def _take(self, configuration: Configuration) -> None:
        keys = changed(self.settings, configuration.settings)
        applied = tuple(key for key in keys if is_live(key))
        restart = tuple(key for key in keys if not is_live(key))
        self.settings = merged(self.settings, configuration.settings)
        logs.set_level(self.settings.log_level)
        if applied:
            log.info("changed: %s", ", ".join(applied))
        if restart:
            log.warning("changed, but not before a restart: %s", ", ".join(restart))
        if keys:
            change = Change(self.settings, applied, restart, configuration.file)
            for listener in self._listeners:
                listener(change)


current_live: Final[ContextVar[LiveSettings]] = ContextVar("current_live")
"""Those that this process follows: what is built in it listens here, so that nothing is read or followed twice."""


class Announcer:
    """Tells the fabric of changes, in their order; one that cannot be told is logged."""

    def __init__(self, process: str, connect: Callable[[], AbstractAsyncContextManager[Fabric]]) -> None:
        """`process` is how it calls itself."""
        self._process = process
        self._connect = connect
        self._changes = asyncio.Queue[Change]()

    def hear(self, change: Change) -> None:
        """To be told soon."""
        self._changes.put_nowait(change)

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            change = await self._changes.get()
            try:
                async with self._connect() as fabric:
                    await fabric.publish(CHANGED, change.told(self._process))
            except FabricError as failure:
                log.warning("the change of the configuration holds, but is not announced: %s", failure)


@asynccontextmanager
async def following(live: LiveSettings, announcer: Announcer | None = None) -> AsyncGenerator[None]:
    """Held open by whoever goes by live settings; without an announcer, whoever supervises this process announces."""
    tasks = [keep_on(live.run, "following the configuration")]
    if announcer is not None:
        live.listen(announcer.hear)
        tasks.append(keep_on(announcer.run, "announcing changes of the configuration"))
    try:
        yield
    finally:
        await end(tasks)


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal, whose end is told by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
