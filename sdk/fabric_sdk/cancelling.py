"""Ending tasks for good.

Above: whatever runs tasks beside its work. Below: asyncio. A cancellation may get lost on its way: `asyncio.wait_for`
of Python 3.11, which nats-py uses, returns its result instead when both come at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN_SECONDS: Final = 0.5


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks`, again and again, until they have ended. For tasks that do not refuse."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
