"""Logging of the platform's own processes: one line an event, on standard error.

Above: worker and gateway processes. Below: `logging`. Libraries speak only when something is wrong.
"""

from __future__ import annotations

import logging
import os

_QUIET = ("mcp", "uvicorn", "asyncio", "nats", "httpx", "watchfiles")


def configure() -> None:
    """Log at the level of `FABRIC_LOG_LEVEL`, `info` by default."""
    level = os.environ.get("FABRIC_LOG_LEVEL", "info").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s")
    for library in _QUIET:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
