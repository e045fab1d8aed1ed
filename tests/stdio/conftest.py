"""Fixtures of the bridge's tests: the shared fabric behind it, and an agent that sees what arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from gateway.probing import probe
from support.running import Running

from stdio.host import Host

__all__ = ["probe"]


@pytest.fixture(scope="module")
async def host(hello_fabric: Running) -> AsyncGenerator[Host]:
    """A host beside the shared fabric, for tests that leave it as it was."""
    async with Host.of("--url", hello_fabric.mcp_url, FABRIC_TOKEN=str(hello_fabric.token)) as host:
        yield host


@pytest.fixture
async def passing_host(hello_fabric: Running) -> AsyncGenerator[Host]:
    """The same, for one test that ends it."""
    async with Host.of("--url", hello_fabric.mcp_url, FABRIC_TOKEN=str(hello_fabric.token)) as host:
        yield host
