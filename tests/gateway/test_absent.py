"""An agent that is listed, and not there: its breaker opens, and the gateway's metrics say so. Proves: CM-4, OP-3."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest

from fabric.gateway.app import Gateway
from fabric.observability.metrics import METRICS
from fabric.settings import load_settings
from fabric_sdk import Fabric
from fabric_sdk.patterns import call as calling
from fabric_sdk.routing import breaker
from fabric_sdk.routing.breaker import OPEN_AFTER
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from gateway.client import Client, refusal
from gateway.fakes import FakeRegistry, offering


async def open_breakers() -> dict[str, float]:
    (family,) = [each for each in await METRICS.collect() if each.name == "fabric_breaker_open"]
    return {point.labels[0]: point.value for point in family.points}


async def test_calls_of_an_agent_that_is_not_there_fail_at_once_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "PATIENCE", 0.2)
    monkeypatch.setattr(breaker, "TRY_SECONDS", 60.0)
    registry, bus = FakeRegistry(), MemoryTransport()
    registry.agents = {"a": offering("a", "x"), "b": offering("b", "y")}
    worker = Worker(bus, registry.agent())
    await worker.start()
    async with Fabric.over(bus) as fabric:
        gateway = Gateway(fabric, load_settings(anonymous=True))
        transport = httpx.ASGITransport(cast("Any", gateway))
        async with gateway.run(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            anybody = Client("/mcp", None, http)
            await gateway.catalogue.ready.wait()
            assert await open_breakers() == {"a": 0, "b": 0}
            for _ in range(OPEN_AFTER):
                response = await anybody.ask("tools/call", {"name": "a_x", "arguments": {}})
                assert "is taking calls" in refusal(response, 200, 5030, number=1)["message"]
            monkeypatch.setattr(calling, "PATIENCE", 60.0)  # whatever waits now ends the test
            response = await anybody.ask("tools/call", {"name": "a_x", "arguments": {}})
            assert "this one does not wait" in refusal(response, 200, 5030, number=1)["message"]
            assert await open_breakers() == {"a": 1, "b": 0}
    await worker.drain(0.0)
