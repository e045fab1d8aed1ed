"""A fabric without agents, for pools that come and go."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from cli.command import Up, up


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    with up("--ephemeral", folder=tmp_path_factory.mktemp("bare")) as node:
        yield node
