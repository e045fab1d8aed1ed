"""A file that exists while a process is ready, so that whoever waits needs no sleep and no port.

Above: worker processes, which hold one, and supervisors, which look. Below: the file system.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil


class ReadyFile:
    """Holds the process id of a process that is ready."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @staticmethod
    @contextmanager
    def of(path: Path | None) -> Generator[None]:
        """Present while the block runs; nothing for no path."""
        if path is None:
            yield
            return
        path.write_text(str(os.getpid()))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    async def probe(self) -> None:
        """Return if the process that wrote the file is alive.

        Raises:
            RuntimeError: there is no file yet, or its process is gone.
        """
        try:
            pid = int(self._path.read_text())
        except (OSError, ValueError):
            raise RuntimeError("it has not said that it is ready") from None
        if not psutil.pid_exists(pid):
            raise RuntimeError(f"process {pid} is gone")
