"""Fixtures of the bridge's tests: the shared fabric behind it, and an agent that sees what arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from gateway.client import tools
from gateway.probe import Probe, serving
from support.running import Running
from support.waiting import eventually

from stdio.host import Host


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


@pytest.fixture(scope="module")
async def probe(hello_fabric: Running) -> AsyncGenerator[Probe]:
    """An agent of the shared fabric that lives in this process."""
    probe = Probe()
    async with serving(hello_fabric.nats_url, probe):
        await eventually(lambda: "probe_raw" in tools(hello_fabric), what="the probe in the list of tools")
        yield probe
