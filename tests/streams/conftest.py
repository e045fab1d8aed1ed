"""A server that keeps and may be broken, workers in this process and in others."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.nats_server import PrivateNats, private_nats

from fabric_sdk import Agent
from fabric_sdk.client import Fabric
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Worker

KEEPING = 'jetstream { store_dir: "js", sync_interval: always }\n'
ENDS = Path(__file__).parent / "ends.py"

Serve = Callable[..., Awaitable[Worker]]
"""Serves an agent in this process, at the server of the test or at `url`."""

End = Callable[..., Awaitable[Process]]
"""Starts `ends.py` with these arguments, and returns when it is ready."""


@pytest.fixture(scope="session")
def keeping() -> Generator[PrivateNats]:
    """A server for all tests that break nothing."""
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
def breakable() -> Generator[PrivateNats]:
    """A server for one test, which may do to it what it likes."""
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest) -> PrivateNats:
    """The server of this test: `breakable` if it asks for that one."""
    return request.getfixturevalue("breakable" if "breakable" in request.fixturenames else "keeping")


@pytest.fixture
async def fabric(server: PrivateNats) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(server.url) as fabric:
        yield fabric


@pytest.fixture
async def serve(server: PrivateNats) -> AsyncGenerator[Serve]:
    async with AsyncExitStack() as stack:

        async def serve(agent: Agent, url: str = "") -> Worker:
            transport = await NatsTransport.connect(url or server.url)
            stack.push_async_callback(transport.close)
            worker = Worker(transport, agent)
            await worker.start()
            stack.push_async_callback(worker.drain, 0.0)
            return worker

        yield serve


@pytest.fixture
async def end(server: PrivateNats) -> AsyncGenerator[End]:
    processes: list[Process] = []

    async def start(role: str, *arguments: str) -> Process:
        command = [sys.executable, str(ENDS), role, server.url, *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
        processes.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()
