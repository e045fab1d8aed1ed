"""A fabric on a data folder with one worker of `hello`, for the commands that look at it or get in its way."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from cli.command import HELLO, Up, up


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "data"


@pytest.fixture(scope="package")
def node(data: Path) -> Generator[Up]:
    with up("--data", data, HELLO, folder=data.parent) as node:
        yield node
        assert node.command.stop() == 0
    assert not (data / "fabric.json").exists()
