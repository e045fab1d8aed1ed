"""The file: a ZIP without compression (the server packs by itself), its manifest last, and every part with its hash.

Above: saving and restoring. Below: the file system. Written beside its place and moved there once all of it is on the
disk, so a file of that name is always whole; readable by its owner alone, since streams hold hashes of keys, and all
that was ever said.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fabric.backup.manifest import Damaged, Manifest, Part, StartedTask, StreamPart, read_manifest
from fabric.files import replacing
from fabric_sdk.jetstream.snapshot import PIECE_BYTES

_MANIFEST: Final = "manifest.json"
_STARTED: Final = "tasks-started.jsonl"
_DAMAGED_FIX: Final = "take another backup: nothing was restored from this one"
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    EOFError,
    ValueError,
    OSError,
    RuntimeError,  # it seems to be encrypted, or (NotImplementedError) of another version
)
"""What one bit that is wrong makes zipfile raise."""


class Draft:
    """An archive that is being written. Made by `write_archive`."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    async def add_stream(self, name: str, pieces: AsyncIterable[bytes]) -> AsyncGenerator[Part]:
        """Write a stream; after each piece, what there is of it by now."""
        digest, size = hashlib.sha256(), 0
        with self._file.open(_stream(name), "w", force_zip64=True) as part:
            async for piece in pieces:
                part.write(piece)
                digest.update(piece)
                size += len(piece)
                yield Part(size=size, sha256=digest.hexdigest())

    def add_started(self, lines: Iterable[bytes]) -> Part:
        """Write the tasks that were started meanwhile."""
        return self._add(_STARTED, lines)

    def add_configuration(self, name: str, content: bytes) -> Part:
        """Write a file."""
        return self._add(_configuration(name), (content,))

    def _add(self, name: str, lines: Iterable[bytes]) -> Part:
        digest, size = hashlib.sha256(), 0
        with self._file.open(name, "w", force_zip64=True) as part:
            for line in lines:
                part.write(line)
                digest.update(line)
                size += len(line)
        return Part(size=size, sha256=digest.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Write the table of contents: without it, the file is none."""
        self._file.writestr(_MANIFEST, manifest.model_dump_json(indent=2))


@contextmanager
def write_archive(path: Path) -> Generator[Draft]:
    """Write an archive to `path`, which is replaced at the end; left as it was if anything fails.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        yield Draft(archive)
    _sync(path.parent)


class Archive:
    """An archive that is there. Made by `open_archive`."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self.manifest = read_manifest(_member(file, path, _MANIFEST), path)

    def verify(self) -> None:
        """Read all of it, and hold each part against its hash.

        Raises:
            Damaged: it is not what was written.
        """
        said = {_stream(part.name): part for part in self.manifest.streams}
        said |= {_configuration(name): part for name, part in self.manifest.configuration.items()}
        for name, part in {_STARTED: self.manifest.started, **said}.items():
            digest = hashlib.sha256()
            for piece in self._pieces(name):
                digest.update(piece)
            if digest.hexdigest() != part.sha256:
                raise Damaged(f"{self.path} is damaged: {name} is not what was saved", fix=_DAMAGED_FIX)
        self.started()

    async def pieces(self, part: StreamPart) -> AsyncGenerator[bytes]:
        """A stream, in pieces that a message holds."""
        for piece in self._pieces(_stream(part.name)):
            yield piece

    def started(self) -> list[StartedTask]:
        """The tasks that were started while it was made.

        Raises:
            Damaged: this is something else.
        """
        lines = b"".join(self._pieces(_STARTED)).splitlines()
        try:
            return [StartedTask.model_validate_json(line) for line in lines]
        except ValidationError:
            raise Damaged(f"{self.path} is damaged: {_STARTED} has no tasks in it", fix=_DAMAGED_FIX) from None

    def configuration(self, name: str) -> bytes:
        """One file.

        Raises:
            Damaged: it is not in it.
        """
        return b"".join(self._pieces(_configuration(name)))

    def text(self, name: str) -> str:
        """One file that has to be text.

        Raises:
            Damaged: it is not in it, or no text.
        """
        try:
            return self.configuration(name).decode()
        except UnicodeDecodeError:
            raise Damaged(f"{self.path} is damaged: {_configuration(name)} is no text", fix=_DAMAGED_FIX) from None

    def _pieces(self, name: str) -> Iterator[bytes]:
        try:
            with self._file.open(name) as part:
                while piece := part.read(PIECE_BYTES):
                    yield piece
        except _UNREADABLE:
            raise Damaged(f"{self.path} is damaged: {name} cannot be read", fix=_DAMAGED_FIX) from None


@contextmanager
def open_archive(path: Path) -> Generator[Archive]:
    """Open an archive, and read what it says of itself.

    Raises:
        Damaged: it is none.
        OSError: it cannot be read.
    """
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError):  # the latter: its directory says a version that there never was
        raise Damaged(f"{path} is no backup, or was cut off", fix="name a file that `fabric backup` wrote") from None
    with file:
        yield Archive(path, file)


def _stream(name: str) -> str:
    return f"streams/{name}"


def _configuration(name: str) -> str:
    return f"configuration/{name}"


def _member(file: zipfile.ZipFile, path: Path, name: str) -> bytes:
    try:
        return file.read(name)
    except _UNREADABLE:
        raise Damaged(f"{path} is no backup of a fabric", fix="name a file that `fabric backup` wrote") from None


def _sync(folder: Path) -> None:
    """Let the new name itself outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
