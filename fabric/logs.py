"""Logging of the platform's own processes: one line an event, on standard error.

Above: worker and gateway processes. Below: `logging`. Libraries speak only when something is wrong.
"""

from __future__ import annotations

import logging
from typing import Final

_QUIET = ("mcp", "uvicorn", "asyncio", "nats", "httpx", "watchfiles")
_MOST_TOLD: Final = 1000


class Once:
    """Warns of each thing once; what comes from the bus may have no end, so beyond a thousand it falls silent."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: set[object] = set()

    def warning(self, about: object, message: str, *arguments: object) -> None:
        """Warn, unless it was done for `about` before."""
        if about not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(about)
            self._log.warning(message, *arguments)


def configure(level: str) -> None:
    """Log at `level`, one of `settings.log_level`."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s")
    set_level(level)


def set_level(level: str) -> None:
    """Log at another level from now on."""
    logging.getLogger().setLevel(level.upper())
    for library in _QUIET:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
