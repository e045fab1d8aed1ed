"""The folder that the private servers keep their data in: found, locked, private, and gone again if it was temporary.

Above: `credentials`, `ports`, and the two servers. Below: the file system. It refuses to know what is stored in it.

One lock tells who uses a folder. It is an advisory lock on an open file (flock), so the kernel gives it back however
its holders end. The servers inherit it: after the death of whoever started them, the folder stays taken until the
last of them has ended too, and no second nats-server can open a store that a dying one still writes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import platformdirs
import psutil

from fabric.embedded.errors import DataFolderError, DataFolderInUse
from fabric.files import put, read_whole

LEAST_FREE = 64 * 1024 * 1024
"""Bytes that must be free at the start. A full disk makes JetStream go silent in the middle of the work instead."""

_APP = "agent-fabric"
_LOCK = "fabric.lock"
_NOT_OURS_BUT_HARMLESS = {"lost+found"}  # a fresh ext4 volume has it
_LEFTOVERS_END_WITHIN = 5.0  # seconds that the servers of a dead owner are given to end
_MOST_BYTES = 65_536  # of a token, a password, a port
_ANOTHER = "choose another folder with --data DIR"

_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EFBIG: "files may not grow any more (see ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you have no permission",
    errno.EPERM: "you have no permission",
    errno.ENOTDIR: "a part of its path is a file",
    errno.ENOLCK: "its file system cannot lock files",
    errno.EOPNOTSUPP: "its file system cannot lock files",
}


class DataFolder:
    """A locked folder, readable by this user alone. Made by `open_data_folder` and `ephemeral_data_folder`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock
        """The descriptor that holds the lock; a server that uses the folder inherits it."""

    def inside(self, name: str) -> Path:
        """The folder of this name inside, made if missing, private. Raises DataFolderError."""
        path = self.path / name
        with _explained(self.path):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
        return path

    def read(self, name: str) -> str | None:
        """The text of a file inside; `None` if there is none. Raises DataFolderError."""
        with _explained(self.path):
            try:
                return read_whole(self.path / name, _MOST_BYTES).decode()
            except FileNotFoundError:
                return None
            except UnicodeDecodeError:
                raise DataFolderError(
                    f"{self.path / name} is no text", fix=f"put back what was there, or {_ANOTHER}"
                ) from None

    def write(self, name: str, text: str) -> None:
        """Replace a file inside: wholly or not at all, through a power cut too. Mode 0600. Raises DataFolderError."""
        with _explained(self.path):
            put(self.path / name, text)

    @property
    def free(self) -> int:
        """Bytes that can still be written to it."""
        with _explained(self.path):
            return shutil.disk_usage(self.path).free


def default_path() -> Path:
    """The data folder in this user's state folder."""
    return platformdirs.user_state_path(_APP, appauthor=False)


@asynccontextmanager
async def open_data_folder(path: Path | None = None) -> AsyncGenerator[DataFolder]:
    """Hold the data folder, made if missing; `None` is the user's state folder. Kept at the end.

    Raises DataFolderInUse if another process holds it, DataFolderError if it cannot be used for any other reason.
    """
    path = (path or default_path()).expanduser().absolute()
    _make_ours(path)
    lock = await _lock_soon(path)
    try:
        _refuse_if_full(path)
        yield DataFolder(path, lock)
    finally:
        os.close(lock)


@asynccontextmanager
async def ephemeral_data_folder() -> AsyncGenerator[DataFolder]:
    """Hold a new folder that is removed at the end, or by a later start if this process is killed.

    Raises DataFolderError if there can be none.
    """
    await asyncio.to_thread(_remove_stale)
    path, lock = _make_ephemeral()
    try:
        _refuse_if_full(path)
        yield DataFolder(path, lock)
    finally:
        # Removed before the lock is given back: until then nobody else takes it for stale.
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        os.close(lock)


def _make_ours(path: Path) -> None:
    """Make the folder; refuse one that holds something else, whose rights must not be changed."""
    with _explained(path):
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise DataFolderError(f"{path} is a file, not a folder", fix=_ANOTHER) from None
        names = {entry.name for entry in path.iterdir()} - _NOT_OURS_BUT_HARMLESS
        if names and _LOCK not in names:
            raise DataFolderError(
                f"{path} holds something that is not a fabric's data",
                fix="choose a new or empty folder with --data DIR",
            )
        with suppress(PermissionError):  # a mounted volume may belong to root; all that matters inside is private
            path.chmod(0o700)


async def _lock_soon(path: Path) -> int:
    """Take the lock, giving the servers of a dead owner a moment to end; returns its descriptor."""
    deadline = asyncio.get_running_loop().time() + _LEFTOVERS_END_WITHIN
    while True:
        lock = _try_lock(path / _LOCK)
        if lock is not None:
            return lock
        owner, alive = owner_of(path)
        if alive:
            raise DataFolderInUse(
                f"{path} is in use by process {owner}", pid=owner, fix=f"stop it with: kill {owner} - or {_ANOTHER}"
            )
        if asyncio.get_running_loop().time() > deadline:
            was = f"process {owner}, which has ended," if owner else "an earlier process"
            raise DataFolderInUse(
                f"servers started by {was} still use {path}",
                pid=owner,
                fix=f"stop nats-server and valkey - or {_ANOTHER}",
            )
        await asyncio.sleep(0.05)


def _try_lock(file: Path) -> int | None:
    """The descriptor of the lock, with our name in it; `None` if somebody holds it."""
    with _explained(file.parent):
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and flock somebody may have removed the whole folder as stale.
            if not os.path.samestat(os.fstat(lock), file.stat()):
                raise BlockingIOError
            me = psutil.Process()
            os.truncate(lock, 0)
            os.pwrite(lock, json.dumps({"pid": me.pid, "started": me.create_time()}).encode(), 0)
        except (BlockingIOError, FileNotFoundError):
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return lock


def owner_of(path: Path) -> tuple[int | None, bool]:
    """The process whose name is in a folder's lock, and whether it lives.

    Its start time tells it from a later process with the same number.
    """
    try:
        said = json.loads((path / _LOCK).read_text(encoding="utf-8"))
        pid, started = int(said["pid"]), float(said["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, False
    try:
        return pid, abs(psutil.Process(pid).create_time() - started) < 1.0
    except psutil.AccessDenied:
        return pid, True
    except psutil.NoSuchProcess:
        return pid, False


def _ephemeral_prefix() -> str:
    return f"{_APP}-{os.getuid()}-"


def _make_ephemeral() -> tuple[Path, int]:
    parent = Path(tempfile.gettempdir())
    while True:
        with _explained(parent):
            path = Path(tempfile.mkdtemp(prefix=_ephemeral_prefix()))
        try:
            lock = _try_lock(path / _LOCK)
        except DataFolderError:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)
                raise
            lock = None
        if lock is not None:
            return path, lock
        # Another start took it for stale in the moment before it was locked, and removed it: make another.


def _remove_stale() -> None:
    """Remove the temporary folders of this user whose owner was killed, and all of its servers with it."""
    for path in Path(tempfile.gettempdir()).glob(_ephemeral_prefix() + "*"):
        with suppress(OSError):
            seen = path.lstat()
            if seen.st_uid != os.getuid() or not path.is_dir() or path.is_symlink():
                continue
        with suppress(OSError):
            path.rmdir()  # only if empty: it may be another start's, not locked yet, which then makes itself another
            continue
        with suppress(OSError, DataFolderError):
            if (lock := _try_lock(path / _LOCK)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _refuse_if_full(path: Path) -> None:
    with _explained(path):
        free = shutil.disk_usage(path).free
    if free < LEAST_FREE:
        mib = 1024 * 1024
        raise DataFolderError(
            f"the disk of {path} is full: {free // mib} MiB are free, {LEAST_FREE // mib} are needed",
            fix=f"free some space there, or {_ANOTHER}",
        )


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn an OSError about the folder into words."""
    try:
        yield
    except OSError as error:
        why = _WORDS.get(error.errno or 0, error.strerror or str(error))
        raise DataFolderError(f"{path} cannot be used: {why}", fix=f"mend that, or {_ANOTHER}") from error
