"""Tasks that run beside the work: none of them dies unheard, and all of them end.

Above: whatever runs tasks beside its work. Below: asyncio. A cancellation may get lost on its way: `asyncio.wait_for`
of Python 3.11, which nats-py uses, returns its result instead when both come at the same moment.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 0.5
_ANEW_SECONDS: Final = 1.0


def keep_on(work: Callable[[], Awaitable[None]], what: str) -> asyncio.Task[None]:
    """Run `work` in a task of its own, until it returns or is ended; when it fails, say so and begin it anew.

    Args:
        work: what nobody awaits.
        what: it, in the words of a log line: "reading heartbeats".
    """

    async def run() -> None:
        while True:
            try:
                return await work()
            except Exception:  # whatever it is, it is told, and the work goes on
                log.exception("%s failed; it begins anew in %g s", what, _ANEW_SECONDS)
            await asyncio.sleep(_ANEW_SECONDS)

    return asyncio.create_task(run(), name=what)


async def until(over: asyncio.Event, work: Coroutine[Any, Any, T], otherwise: T) -> T:
    """What `work` gives; `otherwise`, where it is ended since all is `over` before."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(over.wait())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end((working, leaving))
    return otherwise if working.cancelled() else working.result()


async def end(tasks: Iterable[asyncio.Task[Any]], *, grace: float = 0.0, patience: float = math.inf) -> None:
    """Cancel `tasks`, again and again, until they have ended.

    Args:
        tasks: by default, such as do not refuse.
        grace: seconds in which they may end by themselves before that.
        patience: seconds after which those that refuse are left behind; they go with the process.
    """
    pending = {task for task in tasks if not task.done()}
    if pending and grace:
        _, pending = await asyncio.wait(pending, timeout=grace)
    until = asyncio.get_running_loop().time() + patience
    while pending and (left := until - asyncio.get_running_loop().time()) > 0:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=min(_AGAIN_SECONDS, left))
