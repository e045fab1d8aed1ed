"""What is read from files and follows them: a good change takes the old one's place, a bad one takes nobody's.

Above: policy, limits, `live`. Below: watchfiles. Folders are watched, not files: editors put a new file in the
old one's place, and Kubernetes swaps a link beside it. It refuses to know what the files say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType] - its filters are untyped

from fabric_sdk.contracts.errors import ConfigurationError

log = logging.getLogger(__name__)

_LOOK_MS: Final = 1000
"""The files are looked at so often even if no change is told, as on a network's drive or in a folder made anew."""

S = TypeVar("S")
T = TypeVar("T")


class Followed(Generic[S, T]):
    """What files mean, as it holds now."""

    def __init__(
        self,
        what: str,
        path: Path | None,
        *,
        read: Callable[[Path | None], S],
        parse: Callable[[S], T],
        persistent: bool = False,
    ) -> None:
        """Read it.

        Args:
            what: how the log calls it.
            path: a file or folder; `None` for what never changes.
            read: gives what the files hold; equal to what it gave before as long as nothing changed.
            parse: gives what that means. Both raise ConfigurationError.
            persistent: whether what was refused is looked at again though it is the same: what it is about may not be.

        Raises:
            ConfigurationError: it cannot be read, or something is wrong with it.
        """
        self._what = what
        self._path = path
        self._read = read
        self._parse = parse
        self._persistent = persistent
        self._listeners: list[Callable[[T], None]] = []
        self._woken = asyncio.Event()
        self._source: S | None = read(path)
        self._refusal = ""
        self.value: T = parse(self._source)
        """The one that holds now."""

    @property
    def path(self) -> Path | None:
        """Where it is read from."""
        return self._path

    def listen(self, listener: Callable[[T], None]) -> None:
        """Call `listener` with each new value, once it holds."""
        self._listeners.append(listener)

    def move(self, path: Path | None) -> None:
        """Read it from another place from now on."""
        if path != self._path:
            self._path = path
            self.reload()

    def reload(self) -> None:
        """Take and tell it anew, whether it changed or not."""
        self._source, self._refusal = None, ""
        self._woken.set()

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            self._woken.clear()
            await self._look()
            if (path := self._path) is None:
                await self._woken.wait()
                continue
            folder = path if path.is_dir() else path.parent
            try:
                async for _ in awatch(
                    folder,
                    watch_filter=None,
                    recursive=False,
                    rust_timeout=_LOOK_MS,
                    yield_on_timeout=True,
                    stop_event=self._woken,
                ):
                    await self._look()
            except (OSError, RuntimeError) as lost:
                log.warning("the folder of the %s cannot be watched: %s", self._what, lost)
                await asyncio.sleep(_LOOK_MS / 1000)

    async def _look(self) -> None:
        path = self._path
        try:
            newer = await asyncio.to_thread(self._newer, path)
        except ConfigurationError as wrong:
            if (refusal := "; ".join(str(wrong).splitlines())) != self._refusal:
                log.error("refused, and the old %s kept: %s", self._what, refusal)
            self._refusal = refusal
            return
        if newer is None or path != self._path:
            return
        self._refusal = ""
        (self.value,) = newer
        log.info("changed: the %s%s", self._what, f" of {path}" if path else "")
        for listener in self._listeners:
            try:
                listener(self.value)
            except Exception:  # whoever listens badly must not keep it from the others
                log.exception("a listener of the %s failed", self._what)

    def _newer(self, path: Path | None) -> tuple[T] | None:
        source = self._read(path)
        if source == self._source:
            return None
        if not self._persistent:
            self._source = source
        value = self._parse(source)
        self._source = source
        return (value,)
