"""Logging of the platform's own processes: one line an event, on standard error.

Above: worker and gateway processes. Below: `logging`. Libraries speak only when something is wrong.
"""

from __future__ import annotations

import logging

_QUIET = ("mcp", "uvicorn", "asyncio", "nats", "httpx", "watchfiles")


def configure(level: str) -> None:
    """Log at `level`, one of `settings.log_level`."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s")
    for library in _QUIET:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
