"""Which fabric a command talks to, and whether the one that a folder speaks of still runs. Proves: OP-1."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from support.nats_server import HOST, free_port

from cli.inside import fabric_inside
from fabric.cli.connection import nats_url
from fabric.embedded.folder import DataFolder, open_data_folder
from fabric.whereabouts import Whereabouts
from fabric_sdk.contracts.errors import TransportUnavailable

NAMED = "nats://named:1"
RUNNING = "nats://running:2"


@pytest.fixture
def folder(tmp_path: Path) -> Generator[DataFolder]:
    """A folder whose fabric is this process."""
    with asyncio.Runner() as runner:
        held = open_data_folder(tmp_path / "data")
        folder = runner.run(held.__aenter__())
        about = Whereabouts(mcp_url="", nats_url=RUNNING, redis_url="", token=None, pid=os.getpid(), pids={})
        about.publish(folder)
        yield folder
        runner.run(held.__aexit__(None, None, None))


def owned_by(folder: DataFolder, pid: int, started: float) -> None:
    """Put another process's name into the lock, as if that had taken it."""
    (folder.path / "fabric.lock").write_text(json.dumps({"pid": pid, "started": started}))


def test_a_typed_folder_goes_before_the_url_and_the_url_before_the_folder_of_the_environment(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("FABRIC_NATS_URL", NAMED)
    monkeypatch.setenv("FABRIC_DATA", str(folder.path))
    assert nats_url(None) == NAMED
    assert nats_url(folder.path) == RUNNING
    monkeypatch.delenv("FABRIC_NATS_URL")
    assert nats_url(None) == RUNNING
    with pytest.raises(TransportUnavailable, match=f"no fabric is running on {tmp_path}"):
        nats_url(tmp_path)
    monkeypatch.setenv("FABRIC_DATA", "")
    with pytest.raises(TransportUnavailable, match="no fabric is running here"):
        nats_url(None)


def test_a_command_takes_the_url_though_the_environment_names_a_folder(folder: DataFolder) -> None:
    url = f"nats://{HOST}:{free_port()}"
    env = {"FABRIC_NATS_URL": url, "FABRIC_DATA": str(folder.path)}
    fabric_inside("ps", env=env).refused(3, f"no NATS server answers at {url}")


def test_a_process_that_only_got_the_number_of_a_fabric_is_not_one(folder: DataFolder) -> None:
    assert Whereabouts.of(folder.path) is not None
    mine = psutil.Process().create_time()
    owned_by(folder, os.getpid(), mine - 60)  # since then the number was given to this process
    assert Whereabouts.of(folder.path) is None
    owned_by(folder, os.getppid(), psutil.Process(os.getppid()).create_time())  # that has begun, and is not ready yet
    assert Whereabouts.of(folder.path) is None
    owned_by(folder, os.getpid(), mine)
    assert Whereabouts.of(folder.path) is not None


@pytest.mark.parametrize("said", ["", "{}", "[]", '{"pid": 1}', "\0"], ids=repr)
def test_a_file_that_says_nothing_of_use_is_no_fabric(folder: DataFolder, said: str) -> None:
    folder.write("fabric.json", said)
    assert Whereabouts.of(folder.path) is None
