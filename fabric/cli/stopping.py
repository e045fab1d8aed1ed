"""Ends a long-running command at a signal: at once while it starts, in order once it waits, quickly at the second.

Above: commands that run until they are told to stop. Below: the event loop's signals.
"""

from __future__ import annotations

import asyncio
import signal

from fabric.cli.console import err


class Stop:
    """Hears SIGINT, SIGTERM and SIGHUP for the task that makes it.

    Until that task waits, a signal cancels it; the first one after that ends the wait; those that follow cancel the
    task again, which hurries whatever it does in order to end (`Supervisor.stop`).
    """

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._waits = False
        self._task = asyncio.current_task()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, self._hear, signum)

    async def wait(self) -> None:
        """Return when a signal came."""
        self._waits = True
        await self._told.wait()
        self._waits = False
        err.print("[dim]stopping: calls in hand are finished first; Ctrl-C again ends them now[/]")

    def _hear(self, signum: signal.Signals) -> None:
        # A terminal that closes says so twice: the kernel does, and the shell.
        closed_again = signum is signal.SIGHUP and self._told.is_set()
        if self._task is not None and not self._waits and not closed_again:
            self._task.cancel()
        self._told.set()
