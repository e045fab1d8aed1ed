"""A process's log file: opened for appending, kept small, its last lines read back.

Above: `launch` and `child`. Below: the file system. It refuses to know what is in the lines.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LIMIT = 10 * 1024 * 1024
"""Bytes after which the log is moved aside; with the one older copy, a log never takes much more than twice this."""

_TAIL_BYTES = 16 * 1024
_TAIL_LINES = 20


def open_log(path: Path) -> int:
    """Open `path` for appending, creating it for this user alone; returns the descriptor. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def trim(path: Path) -> None:
    """Copy a log that has outgrown LIMIT to `<name>.1` and empty it.

    The writer keeps its descriptor: it appends, so its next line lands at the new start. Lines written between the
    copy and the cut are lost; for a log that is better than asking every program to reopen its output.
    """
    try:
        if path.stat().st_size > LIMIT:
            aside = path.with_name(path.name + ".1")
            shutil.copyfile(path, aside)
            aside.chmod(0o600)
            os.truncate(path, 0)
    except OSError:
        pass  # a log that cannot be trimmed must not take its process down


def last_lines(path: Path, start: int) -> tuple[str, ...]:
    """The last lines written to `path` after byte `start`; none if it cannot be read."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(min(start, size), size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-_TAIL_LINES:])
