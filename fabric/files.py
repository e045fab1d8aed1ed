"""Files as processes need them: whole at any moment for those that read, and read without waiting, to a bound.

Above: whoever writes what others read, or reads what people name. Below: the file system.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast


def read(path: Path, most: int) -> bytes:
    """What a file holds: `most` bytes of it, and one more that shows that there is more.

    It never waits for somebody who writes, as one does who opens a pipe or reads from a terminal.

    Raises:
        OSError: it cannot be read, or is a pipe, or a device that has nothing to say now.
    """
    with open(path, "rb", opener=_at_once) as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, and no file", str(path))
        content = cast("bytes | None", file.read(most + 1))  # typeshed knows of no file that does not wait
    if content is None:
        raise OSError(errno.EAGAIN, "it is a device that has nothing to say, and no file", str(path))
    return content


def read_whole(path: Path, most: int) -> bytes:
    """As `read`, of what is refused where it has more than `most` bytes.

    Raises:
        OSError: as there, or it is too large.
    """
    content = read(path, most)
    if len(content) > most:
        raise OSError(errno.EOVERFLOW, f"it has more than {most >> 10} KiB", str(path))
    return content


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


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
