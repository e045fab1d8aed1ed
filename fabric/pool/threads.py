"""The threads in which a worker process runs functions that are not coroutines, and how it gets away from them.

Above: `process`. Below: `concurrent.futures`. Python cannot end a thread from outside: one that hangs keeps its place
for ever, so they are counted, and a process with too many of them makes room for a fresh one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn, ParamSpec, TypeVar

_JOIN_SECONDS: Final = 0.5

P = ParamSpec("P")
T = TypeVar("T")


class _Work(Future[T]):
    """One function in a thread; knows when nobody waited for it any more."""

    given_up: float | None = None

    def cancel(self) -> bool:
        """As any future's; what runs already is not ended by this."""
        cancelled = super().cancel()
        if not cancelled and not self.done():
            self.given_up = time.monotonic()
        return cancelled


class Threads(ThreadPoolExecutor):
    """Runs functions in so many threads, and knows in which of them one hangs."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.number = threads
        self._running: set[_Work[object]] = set()

    def hung(self, seconds: float) -> int:
        """How many run a function for which nobody has waited for longer than this."""
        since = time.monotonic() - seconds
        return sum(work.given_up is not None and work.given_up < since for work in self._running.copy())

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run it as soon as a thread is free."""
        work = _Work[T]()
        super().submit(self._run, work, lambda: fn(*args, **kwargs))
        return work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. Waits for no thread: whoever still hangs may do so for ever."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    def _run(self, work: _Work[T], call: Callable[[], T]) -> None:
        if not work.set_running_or_notify_cancel():
            return
        self._running.add(work)  # pyright: ignore[reportArgumentType] - what it returns is nobody's concern here
        try:
            result = call()
        except BaseException as failure:
            work.set_exception(failure)
        else:
            work.set_result(result)
        finally:
            self._running.discard(work)  # pyright: ignore[reportArgumentType]


def leave(code: int) -> NoReturn:
    """End this process with `code`, although threads of it may never end."""
    deadline = time.monotonic() + _JOIN_SECONDS
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    lasting = [thread for thread in others if not thread.daemon]
    for thread in lasting:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in lasting):
        # The interpreter would wait for them, for ever; it does nothing else at its end that a supervised process
        # needs, but for this and for what the author registered with atexit.
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)
