"""What a worker says while it runs: what it is called, that it offers nothing, what blocked it, where NATS is.

Proves: RT-6, CM-2
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from cli.command import started
from support.nats_server import private_nats

from fabric_sdk import Fabric

SERVER = """
import time

from fabric_sdk import Agent

agent = Agent("weather-server")
"""
TOOL = """

@agent.tool
async def forecast(seconds: float) -> str:
    time.sleep(seconds)
    return "rain"
"""


def test_a_worker_says_what_its_author_wants_to_know(tmp_path: Path) -> None:
    empty, blocks = tmp_path / "empty.py", tmp_path / "blocks.py"
    empty.write_text(SERVER)
    blocks.write_text(SERVER + TOOL)

    async def block(url: str) -> None:
        async with Fabric.connect(url) as fabric:
            assert await fabric.agent("weather-server").call("forecast", {"seconds": 1.8}) == "rain"

    with private_nats('jetstream { store_dir: "js" }\n') as nats:
        env = {"FABRIC_NATS_URL": nats.url}
        with started("worker", empty, folder=tmp_path, env=env) as idle:
            idle.until_said("ready    weather-server (empty-1)")
            assert "agent weather-server offers nothing" in idle.said
            assert idle.stop(signal.SIGINT) == 0
        with started("worker", blocks, folder=tmp_path, env=env) as busy:
            busy.until_said("ready    weather-server (blocks-1)")
            asyncio.run(block(nats.url))
            busy.until_said("the event loop was blocked for ")
            assert "in forecast (blocks.py, line 11)" in busy.said
            nats.kill()
            busy.until_said("NATS is away")
            nats.start()
            busy.until_said("NATS is back")
            assert busy.stop() == 0
    assert "offers nothing" not in busy.said
