"""Files that others read, whole at any moment: written beside their place, and moved there at the end.

Above: whoever writes what others read. Below: the file system.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def refuse_pipe(path: Path) -> None:
    """Look, before a file is opened: opening a pipe waits for whoever writes to it, for ever if nobody does.

    Raises:
        OSError: it is one.
    """
    if path.is_fifo():
        raise OSError(errno.EINVAL, "it is a pipe, and no file", str(path))


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file, for this user alone, that takes the place of `path` once all of it is on the disk, after the block.

    If anything fails, what was there stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    aside = path.with_name(path.name + ".new")
    try:
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as failure:
        if str(failure.filename) == str(aside):  # nobody knows this name but us
            raise OSError(failure.errno, failure.strerror, str(path)) from None
        raise
    finally:
        aside.unlink(missing_ok=True)


def put(path: Path, text: str) -> None:
    """Have `path` hold this text, for this user alone: the old one's or all of this, through a power cut too.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(text.encode())
