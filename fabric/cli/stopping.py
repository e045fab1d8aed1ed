"""Ends a long-running command at a signal: at once while it starts, in order once it waits."""

from __future__ import annotations

import asyncio
import signal


class Stop:
    """Hears SIGINT, SIGTERM and SIGHUP for the task that makes it. Until that task waits, a signal cancels it."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self._starting = asyncio.current_task()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, self._hear)

    async def wait(self) -> None:
        """Return when a signal came."""
        self._starting = None
        await self.told.wait()

    def _hear(self) -> None:
        if self._starting is not None and not self.told.is_set():
            self._starting.cancel()
        self.told.set()
