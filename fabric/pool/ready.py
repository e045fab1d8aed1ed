"""Files by which a process tells that it is ready, or why it never will be; whoever waits needs no sleep and no port.

Above: worker processes, which write them, and supervisors, which look. Below: the file system.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from fabric_sdk.contracts.errors import ConfigurationError

BAD_USAGE: Final = 2
"""Exit code of a process that cannot work for a mistake that no restart mends."""


class ReadyFile:
    """Holds the process id of a process that is ready; beside it is what one said that cannot work."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refusal = path.with_suffix(".refusal")

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

    def refuse(self, mistake: ConfigurationError) -> None:
        """Leave word of why this process cannot work."""
        self._refusal.write_text(json.dumps({"message": mistake.message, "fix": mistake.fix}))

    def forget_refusal(self) -> None:
        """Take back what an earlier process said here."""
        self._refusal.unlink(missing_ok=True)

    def refusal(self) -> ConfigurationError | None:
        """Why the process cannot work, if it said so."""
        try:
            return ConfigurationError(**json.loads(self._refusal.read_text()))
        except (OSError, ValueError, TypeError):
            return None
