"""Says how long an event loop was blocked, and in whose code, once it goes on.

Above: `process`. Below: one thread, which looks at the loop's stack while the loop does not run. A handler that blocks
stops all calls of its process: calls for a while, and then, for the supervisor, the process (`ready`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import fabric
import fabric_sdk

log = logging.getLogger("fabric.worker")

_LOOK_SECONDS: Final = 0.25
_TELL_SECONDS: Final = 1.0
"""Blocked for less, a loop is only busy."""
_LIBRARIES: Final = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_OTHERS: Final = tuple(
    f"{path}{os.sep}"
    for folder in (*_LIBRARIES, *fabric.__path__, *fabric_sdk.__path__)
    for path in {folder, str(Path(folder).resolve())}  # a virtual environment is often reached by a link
)
"""Folders of code that is not the author's."""


class Blocking:
    """Watches the event loop that `run` runs on."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._where = ""
        self._done = threading.Event()

    async def run(self) -> None:
        """Tell of each time the loop was blocked, until cancelled."""
        watching = threading.Thread(target=self._watch, args=(threading.get_ident(),), name="blocking", daemon=True)
        watching.start()
        try:
            while True:
                self._beat, self._where = time.monotonic(), ""
                await asyncio.sleep(_LOOK_SECONDS)
                blocked = time.monotonic() - self._beat - _LOOK_SECONDS
                if blocked > _TELL_SECONDS:
                    where = self._where or "code that kept every thread from running"
                    log.warning("the event loop was blocked for %.1f s, in %s", blocked, where)
        finally:
            self._done.set()

    def _watch(self, loop_thread: int) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            beat = self._beat
            if time.monotonic() - beat > _LOOK_SECONDS + _TELL_SECONDS / 2:
                where = place(sys._current_frames().get(loop_thread))  # pyright: ignore[reportPrivateUsage] - no other way
                if beat == self._beat:
                    self._where = where


def place(frame: FrameType | None) -> str:
    """Where a stack is, in its author's words: the innermost function that is neither ours nor a library's."""
    if frame is None:
        return ""
    own = next((each for each in _outwards(frame) if not each.f_code.co_filename.startswith((*_OTHERS, "<"))), frame)
    return f"{own.f_code.co_name} ({Path(own.f_code.co_filename).name}, line {own.f_lineno})"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
