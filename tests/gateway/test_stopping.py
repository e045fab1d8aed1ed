"""A gateway that is told to stop while it starts stops, wherever it is by then. Proves: CM-2, RT-6."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from cli.command import BARE
from support.listener import listener
from support.nats_server import PrivateNats, private_nats

STARTER = """\
import asyncio, os, signal, sys
import uvicorn
from fabric import garbage
from fabric.gateway import process
from fabric_sdk.transports.nats import NatsTransport

POINTS = {
    "the connection": (NatsTransport, "connect"),
    "the gateway": (process, "Gateway"),
    "the last step before HTTP": (garbage, "settle"),
    "the setting up of HTTP": (uvicorn.Config, "load"),
}

where, name = POINTS[sys.argv[1]]
inner = getattr(where, name)
if asyncio.iscoroutinefunction(inner):
    async def told(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return await inner(*arguments, **named)
else:
    def told(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(*arguments, **named)
setattr(where, name, told)
process.main()
"""
"""A gateway that gets SIGTERM as it comes to a point of its start, and goes on."""

POINTS = ("the connection", "the gateway", "the last step before HTTP", "the setting up of HTTP")
_ENDS_WITHIN = 30.0


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats() as nats:
        yield nats


async def start(url: str, *command: str) -> asyncio.subprocess.Process:
    env = BARE | {"FABRIC_NATS_URL": url, "FABRIC_PORT": "0", "FABRIC_ANONYMOUS": "true"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    return await asyncio.create_subprocess_exec(sys.executable, *command, env=env, stderr=asyncio.subprocess.PIPE)


async def ends(process: asyncio.subprocess.Process) -> str:
    """What it said, once it has ended by itself and in order."""
    try:
        async with asyncio.timeout(_ENDS_WITHIN):
            said = (await process.communicate())[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


async def test_sigterm_ends_a_gateway_at_every_point_of_its_start(nats: PrivateNats, tmp_path: Path) -> None:
    starter = tmp_path / "starter.py"
    starter.write_text(STARTER)

    async def ends_when_told_at(point: str) -> str:
        return await ends(await start(nats.url, str(starter), point))

    at_first, *_ = await asyncio.gather(*map(ends_when_told_at, POINTS))
    assert "MCP is at" not in at_first, "one that is told before it serves never begins to"


async def test_sigterm_ends_a_gateway_that_waits_for_its_broker() -> None:
    async with listener(b"hello\r\n") as other:
        process = await start(f"nats://127.0.0.1:{other.port}", "-m", "fabric.gateway.process")
        assert process.stderr is not None
        assert b"trying again" in await process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert "MCP is at" not in await ends(process)
