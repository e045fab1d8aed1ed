"""A fabric without pools, for those of a test that come and go."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from cli.command import Up, up


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    with up("--ephemeral", folder=tmp_path_factory.mktemp("pools")) as node:
        yield node
