"""Files by which a process tells that it is ready, or why it never will be; whoever waits needs no sleep and no port.

Above: worker processes, which write them, and supervisors, which look. Below: the file system.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts.errors import ConfigurationError, TransportUnavailable

_BEAT_SECONDS: Final = 1.0


class ReadyFile:
    """Holds the process id of a process that is ready, and its agent's name; beside it is what one said that cannot
    work."""

    def __init__(self, path: Path, *, silence: float | None = None) -> None:
        """`silence` is for how many seconds an event loop may stand still; `None` for processes that do not tell."""
        self._path = path
        self._refusal = path.with_suffix(".refusal")
        self._silence = silence
        self._beat = 0
        self._heard = 0.0

    @staticmethod
    @contextmanager
    def of(path: Path | None, agent: str = "") -> Generator[None]:
        """Present while the block runs; nothing for no path."""
        if path is None:
            yield
            return
        path.write_text(f"{os.getpid()} {agent}".strip())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    @asynccontextmanager
    async def living(self, agent: str) -> AsyncGenerator[None]:
        """Present while the block runs, and touched by the event loop all the time that it is not blocked."""
        with self.of(self._path, agent):
            beating = keep_on(self._beats, "saying that this process lives")
            try:
                yield
            finally:
                await end([beating])

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            with suppress(FileNotFoundError):  # the probe sees that, too
                os.utime(self._path)

    async def probe(self) -> None:
        """Return if the process that wrote the file is alive, and its event loop is not blocked for too long.

        Raises:
            RuntimeError: there is no file yet, its process is gone, or shows no sign of life.
        """
        try:
            pid, beat = int(self._path.read_text().split()[0]), self._path.stat().st_mtime_ns
        except (OSError, ValueError, IndexError):
            raise RuntimeError("it has not said that it is ready") from None
        if not psutil.pid_exists(pid):
            raise RuntimeError(f"process {pid} is gone")
        # Two looks at one clock of our own: that of the files may be set, or stand in a machine that sleeps.
        now = time.monotonic()
        if beat != self._beat:
            self._beat, self._heard = beat, now
        elif self._silence is not None and now - self._heard > self._silence:
            raise RuntimeError(f"its event loop has stood still for {now - self._heard:.0f} s")

    def agent(self) -> str | None:
        """The name of the agent that the process serves, if it is ready and said so."""
        try:
            return self._path.read_text().split()[1]
        except (OSError, IndexError):
            return None

    def refuse(self, why: ConfigurationError | TransportUnavailable) -> None:
        """Leave word of why this process cannot work, or not yet."""
        away = isinstance(why, TransportUnavailable)
        self._refusal.write_text(json.dumps({"away": away, "message": why.message, "fix": why.fix}))

    def forget_refusal(self) -> None:
        """Take back what was said here, by this process or an earlier one."""
        self._refusal.unlink(missing_ok=True)

    def refusal(self) -> ConfigurationError | TransportUnavailable | None:
        """Why the process cannot work, if it said so."""
        try:
            said = json.loads(self._refusal.read_text())
            kind = TransportUnavailable if said.pop("away") else ConfigurationError
            return kind(**said)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
