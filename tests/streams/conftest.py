"""A server that keeps and may be broken, workers in this process and in others."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from support.durable import Serve, breakable, fabric, keeping, serve, server
from support.nats_server import PrivateNats

__all__ = ["Serve", "breakable", "fabric", "keeping", "serve", "server"]

ENDS = Path(__file__).parent / "ends.py"

End = Callable[..., Awaitable[Process]]
"""Starts `ends.py` with these arguments, and returns when it is ready."""


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
