"""The data folder: one owner at a time, private, clear about what is wrong with it. Proves: SE-7, OP-1."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.waiting import eventually

from fabric.embedded import DataFolder, DataFolderError, DataFolderInUse, ephemeral_data_folder, open_data_folder

pytestmark = pytest.mark.anyio

OWNER = """
import asyncio, sys
from pathlib import Path
from fabric.embedded import ephemeral_data_folder, open_data_folder

async def own():
    async with open_data_folder(Path(sys.argv[1])) if len(sys.argv) > 1 else ephemeral_data_folder() as folder:
        print(folder.path, flush=True)
        await asyncio.Event().wait()

asyncio.run(own())
"""


class Owner:
    """Another process that holds a data folder."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE, env={**os.environ, **environment}
        )
        assert self._process.stdout
        self.path = Path(self._process.stdout.readline().decode().strip())
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


@pytest.fixture
def owner(tmp_path: Path) -> Generator[Owner]:
    owner = Owner(str(tmp_path / "data"))
    yield owner
    owner.kill()


def server_with(lock: int) -> subprocess.Popen[bytes]:
    """What holds the lock of a folder as a server does."""
    return subprocess.Popen(["sleep", "1000"], pass_fds=[lock])


def entries(path: Path) -> set[Path]:
    return set(path.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_second_user_is_refused_and_told_who_is_there_and_what_to_do(owner: Owner) -> None:
    with pytest.raises(DataFolderInUse) as raised:
        async with open_data_folder(owner.path):
            pass
    assert raised.value.pid == owner.pid
    assert f"in use by process {owner.pid}" in str(raised.value)
    assert f"kill {owner.pid}" in str(raised.value)
    assert "--data DIR" in str(raised.value)


async def test_the_folder_of_a_killed_owner_can_be_used_at_once(owner: Owner) -> None:
    owner.kill()
    async with open_data_folder(owner.path) as folder:
        assert folder.path == owner.path


async def test_the_folder_stays_taken_until_the_servers_of_a_killed_owner_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    async with open_data_folder(path) as folder:
        server = server_with(folder.lock)
        lock = path / "fabric.lock"
        lock.write_text(json.dumps({"pid": server.pid, "started": 0.0}))  # as of a process whose number was used again
    try:
        with monkeypatch.context() as patch:
            patch.setattr("fabric.embedded.folder._LEFTOVERS_END_WITHIN", 0.1)
            with pytest.raises(DataFolderInUse, match="servers started by process"):
                async with open_data_folder(path):
                    pass
        waiting = asyncio.create_task(open_and_close(path))
        await asyncio.sleep(0)
        server.kill()
        await asyncio.wait_for(waiting, 5)
    finally:
        server.kill()
        server.wait()


async def open_and_close(path: Path) -> None:
    async with open_data_folder(path):
        pass


async def test_a_folder_is_kept_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    async with open_data_folder(path) as folder:
        folder.write("secret", "s3cret")
        assert mode(folder.inside("server")) == mode(path) == 0o700
        assert mode(path / "secret") == mode(path / "fabric.lock") == 0o600
    async with open_data_folder(path) as folder:
        assert folder.read("secret") == "s3cret"
        assert folder.read("nothing") is None


async def test_a_file_in_it_that_is_no_text_is_told_by_its_name(tmp_path: Path) -> None:
    async with open_data_folder(tmp_path / "data") as folder:
        (folder.path / "token").write_bytes(b"\xff")
        with pytest.raises(DataFolderError, match=r"data/token is no text") as told:
            folder.read("token")
        assert "--data" in str(told.value.fix)


async def test_without_a_name_it_is_the_users_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_state_path", lambda name, **_: tmp_path / "state" / name)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    async with open_data_folder() as folder:
        assert folder.path == tmp_path / "state" / "agent-fabric"


async def test_an_empty_folder_that_is_already_there_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.mkdir(mode=0o755)
    (path / "lost+found").mkdir()  # a new disk is as good as empty
    async with open_data_folder(path):
        assert mode(path) == 0o700


async def test_a_folder_with_something_else_in_it_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    (path / "letter").touch()
    with pytest.raises(DataFolderError, match="not a fabric's data"):
        await open_and_close(path)
    assert mode(path) == 0o755
    assert entries(path) == {path / "letter"}


async def test_a_file_in_its_place_is_named_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match="is a file, not a folder"):
        await open_and_close(tmp_path / "file")
    with pytest.raises(DataFolderError, match="a part of its path is a file"):
        await open_and_close(tmp_path / "file" / "data")


async def test_a_read_only_folder_is_named_as_the_reason(unwritable: list[Path]) -> None:
    for path in unwritable:
        with pytest.raises(DataFolderError, match=r"read-only|no permission") as raised:
            await open_and_close(path)
        assert "--data DIR" in str(raised.value)


async def test_a_full_disk_is_named_as_the_reason_before_anything_starts(small_disk: Path) -> None:
    with pytest.raises(DataFolderError, match=r"is full: \d+ MiB are free, \d+ are needed"):
        await open_and_close(small_disk)


async def test_a_disk_that_fills_up_later_is_named_as_the_reason_and_spares_what_was_there(
    tmp_path: Path, no_room_for_files: AbstractContextManager[None]
) -> None:
    async with open_data_folder(tmp_path / "data") as folder:
        folder.write("ports", "old")
        with pytest.raises(DataFolderError, match="may not grow any more"), no_room_for_files:
            folder.write("ports", "new")
        assert folder.read("ports") == "old"
        folder.write("ports", "newer")
        assert folder.read("ports") == "newer"


async def test_a_temporary_folder_is_removed_at_the_end(temporary: Path) -> None:
    async with ephemeral_data_folder() as folder:
        folder.inside("nats")
        assert mode(folder.path) == 0o700
        assert folder.path.parent == temporary
    assert entries(temporary) == set()


async def test_the_temporary_folder_of_a_killed_owner_is_removed_by_a_later_start(temporary: Path) -> None:
    killed, living = (Owner(TMPDIR=str(temporary)) for _ in range(2))
    try:
        assert {killed.path.parent, living.path.parent} == {temporary}
        (killed.path / "data").write_text("left behind")
        killed.kill()
        async with ephemeral_data_folder() as folder:
            assert entries(temporary) == {living.path, folder.path}
    finally:
        killed.kill()
        living.kill()


async def test_remains_without_a_lock_are_removed_and_what_others_made_is_not(temporary: Path) -> None:
    prefix = f"agent-fabric-{os.getuid()}-"
    empty, remains, file = (temporary / f"{prefix}{name}" for name in ("empty", "remains", "file"))
    empty.mkdir()
    (remains / "nats").mkdir(parents=True)
    file.touch()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    link = temporary / f"{prefix}link"
    link.symlink_to(elsewhere)
    async with ephemeral_data_folder() as folder:
        assert entries(temporary) == {file, elsewhere, link, folder.path}
    assert entries(elsewhere) == set()


async def test_many_temporary_folders_made_at_once_do_not_remove_each_other(temporary: Path) -> None:
    made: list[DataFolder] = []
    all_made = asyncio.Event()

    async def use() -> None:
        async with ephemeral_data_folder() as folder:
            folder.write("mine", "here")
            made.append(folder)
            if len(made) == 20:
                all_made.set()
            await all_made.wait()
            assert folder.read("mine") == "here"

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(use())
    assert entries(temporary) == set()


async def test_a_folder_removed_between_finding_and_locking_it_is_not_taken(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starts, of which one takes the other's new folder for stale in the moment before it is locked."""
    flock: Callable[[int, int], None] = fcntl.flock
    removed: list[Path] = []

    def slow_flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.extend(temporary.iterdir())
            (removed[0] / "fabric.lock").unlink()
            removed[0].rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    async with ephemeral_data_folder() as folder:
        assert folder.path not in removed
        assert folder.path.exists()


async def test_an_owner_that_is_cancelled_gives_the_folder_back(tmp_path: Path) -> None:
    holding = asyncio.Event()

    async def hold() -> None:
        async with open_data_folder(tmp_path / "data"):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    await eventually(task.done)
    await open_and_close(tmp_path / "data")
