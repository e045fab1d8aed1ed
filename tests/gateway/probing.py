"""The fixture of an agent of the shared fabric that lives in the test's process, for the gateway's and the bridge's."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from support.running import Running
from support.waiting import eventually

from gateway.client import tools
from gateway.probe import Probe, serving


@pytest.fixture(scope="module")
async def probe(hello_fabric: Running) -> AsyncGenerator[Probe]:
    """An agent of the shared fabric that lives in this process."""
    probe = Probe()
    async with serving(hello_fabric.nats_url, probe):
        await eventually(lambda: "probe_raw" in tools(hello_fabric), what="the probe in the list of tools")
        yield probe
