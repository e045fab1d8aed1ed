"""Fixtures of the tests of the private servers: a supervisor, a data folder, disks that refuse."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from process.helpers import Events

from fabric.embedded import DataFolder, open_data_folder
from fabric.process import RestartPolicy, Supervisor


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {}


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def supervisor(folder: DataFolder, events: Events) -> AsyncGenerator[Supervisor]:
    """Stopped before `folder` is given back."""
    async with Supervisor(events, restart=RestartPolicy(first=0.02)) as supervisor:
        yield supervisor


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncGenerator[DataFolder]:
    """At a path that would have to be quoted in a configuration file."""
    async with open_data_folder(tmp_path / 'a "data" folder') as folder:
        yield folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary folders, for this test alone."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system with next to no room; where none may be mounted, a folder on one that is treated as such."""
    path = tmp_path / "small"
    path.mkdir()
    with _mounted(path, "size=1m") as mounted:
        if mounted:
            yield path
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fabric.embedded.folder.LEAST_FREE", 2**62)
                yield path


@pytest.fixture
def unwritable(tmp_path: Path) -> Generator[list[Path]]:
    """Folders that cannot be used because nothing can be written there: one to be made, and one that is there."""
    path = tmp_path / "read-only"
    path.mkdir()
    with _mounted(path, "ro,size=1m") as mounted:
        if mounted:
            yield [path / "data", path]
        elif os.getuid() == 0:
            # Root in a container that may not mount: rights do not bind it, but nobody can make a folder here.
            yield [Path("/sys/agent-fabric")]
        else:
            path.chmod(0o500)
            yield [path / "data"]  # the folder itself is ours: it would be given the right again
            path.chmod(0o700)


@pytest.fixture
def no_room_for_files() -> AbstractContextManager[None]:
    """While it is entered, no file of this process can grow: what a full disk or a used-up quota is like."""
    return _no_room_for_files()


@contextmanager
def _no_room_for_files() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _mounted(path: Path, options: str) -> Generator[bool]:
    try:
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)
