"""The fabric that gets broken: four workers of `mill`, and one of `press` from a pool of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest
from cli.command import up, worker
from faults.load import MILL, TOOLS, Mill, tools
from support.running import wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mill]:
    folder = tmp_path_factory.mktemp("faults")
    done = folder / "done"
    with (
        up("--ephemeral", MILL, "--processes", "4", folder=folder, env={"MILL_DONE": str(done)}) as node,
        worker(f"{MILL}:press", folder=folder, env=node.env),
    ):
        wait_until(lambda: asyncio.run(tools(node)) >= TOOLS, what="the list of all tools")
        yield Mill(**vars(node), done=done)
