"""Keeps the policy that holds: read at the start, read again whenever its files change.

Above: the gateway, the platform's agents. Below: `files`, watchfiles. A good policy takes the old one's place between
two decisions; a bad one takes nobody's, and is told in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType] - its filters are untyped

from fabric.policy.decisions import Policy
from fabric.policy.files import DEFAULT, parse
from fabric.policy.pages import Source, read
from fabric_sdk.contracts.errors import ConfigurationError

log = logging.getLogger(__name__)

_LOOK_MS: Final = 1000
"""The files are looked at so often even if no change is told, as on a network's drive or in a folder made anew."""


class PolicyKeeper:
    """The policy of `FABRIC_POLICY`."""

    def __init__(self, path: Path | None = None) -> None:
        """Read it: a file, a folder of `*.yaml`, or the built-in policy.

        Raises:
            ConfigurationError: it cannot be read, or something is wrong with it.
        """
        self._path = path
        self._listeners: list[Callable[[Policy], None]] = []
        self._sources: tuple[Source, ...] = read(path or DEFAULT)
        self._told = ""
        self.policy = parse(self._sources)
        """The one that holds now."""

    def listen(self, listener: Callable[[Policy], None]) -> None:
        """Call `listener` with each new policy, once it holds."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow the files until cancelled; the built-in policy never changes."""
        while self._path is not None:
            folder = self._path if self._path.is_dir() else self._path.parent  # editors put a new file in its place
            try:
                async for _ in awatch(
                    folder, watch_filter=None, recursive=False, rust_timeout=_LOOK_MS, yield_on_timeout=True
                ):
                    await self._look(self._path)
            except (OSError, RuntimeError) as lost:
                log.warning("the policy's folder cannot be watched: %s", lost)
                await asyncio.sleep(_LOOK_MS / 1000)

    async def _look(self, path: Path) -> None:
        try:
            policy = await asyncio.to_thread(self._newer, path)
        except ConfigurationError as wrong:
            if (told := str(wrong)) != self._told:
                log.error("the policy stays as it was: %s", told)
            self._told = told
            return
        self._told = ""
        if policy is None:
            return
        self.policy = policy
        log.info("a new policy holds: %d rules of %s", len(policy.rules), path)
        for listener in self._listeners:
            try:
                listener(policy)
            except Exception:  # whoever listens badly must not keep the policy from the others
                log.exception("a listener of the policy failed")

    def _newer(self, path: Path) -> Policy | None:
        sources = read(path)
        if sources == self._sources:
            return None
        self._sources = sources
        return parse(sources)
