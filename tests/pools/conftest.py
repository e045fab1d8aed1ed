"""A fabric with the servers of other libraries, for pools of our own that come and go as well."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from cli.command import Up, up

SERVERS = sorted(Path(__file__).with_name("servers").glob("*.py"))


@pytest.fixture(scope="package")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    with up("--ephemeral", *SERVERS, "--processes", "4", folder=tmp_path_factory.mktemp("pools")) as node:
        yield node
