"""The folder in which the workers of one `fabric worker` say that they are ready.

Above: the command line. Below: the file system. Its lock (flock) is given back by the kernel however its owner ends,
so that a later start can tell what a killed one left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "agent-fabric-run-"


@contextmanager
def run_folder() -> Generator[Path]:
    """A private folder until the block ends; those of this user's that killed processes left behind are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, another user's, or no folder
            _remove(left, _locked(left))
    folder, lock = _made()
    try:
        yield folder
    finally:
        _remove(folder, lock)


def _made() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(BlockingIOError, FileNotFoundError):  # another start took it for left behind before it was locked
            return folder, _locked(folder)


def _locked(folder: Path) -> int:
    """The descriptor that holds its lock. Raises OSError if somebody else does, or if it is not this user's folder."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(lock).st_uid != os.getuid():
            raise PermissionError
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), folder.stat()):
            raise BlockingIOError
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
