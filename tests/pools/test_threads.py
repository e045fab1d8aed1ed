"""Functions that block hold up nobody but themselves: tasks no calls, calls no tasks. Proves: CM-2, PT-1."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from cli.command import BARE, tied
from support.nats_server import private_nats
from support.waiting import eventually

from fabric_sdk import Fabric

SERVER = """\
import os, pathlib, threading
from fabric_sdk import Agent

agent = Agent("blocked")
here = pathlib.Path(__file__).parent

@agent.tool
def hold(number: int) -> int:
    (here / f"begun-{number}").touch()
    while not (here / "go").exists():
        threading.Event().wait(0.01)
    return number

@agent.tool
def quick() -> int:
    return 1
"""


@asynccontextmanager
async def worker(url: str, target: Path, *, concurrency: int) -> AsyncGenerator[None]:
    """A worker process that takes calls."""
    ready = target.with_suffix(".ready")
    command = ["-m", "fabric.pool.process", str(target), "--concurrency", str(concurrency), "--ready-file", str(ready)]
    env = BARE | {"FABRIC_NATS_URL": url, "PYTHONPATH": ":".join(sys.path)}
    process = await asyncio.create_subprocess_exec(*tied(), sys.executable, *command, env=env)
    try:
        await eventually(ready.exists, seconds=20, what="the worker's readiness")
        yield
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_tasks_that_block_leave_the_calls_their_threads_and_the_other_way_round(tmp_path: Path) -> None:
    server, begun = tmp_path / "server.py", (lambda: len(list(tmp_path.glob("begun-*"))))
    server.write_text(SERVER)
    with private_nats('jetstream { store_dir: "js" }\n') as nats:
        async with worker(nats.url, server, concurrency=2), Fabric.connect(nats.url) as fabric:
            blocked = fabric.agent("blocked")
            tasks = [await blocked.start("hold", {"number": number}) for number in range(3)]
            await eventually(lambda: begun() == 2, what="as many tasks as there are hands")
            assert await blocked.call("quick", timeout=5) == 1
            calls = [asyncio.create_task(blocked.call("hold", {"number": number}, timeout=20)) for number in (3, 4)]
            await eventually(lambda: begun() == 4, what="calls beside the tasks")
            (tmp_path / "go").touch()
            assert await asyncio.gather(*calls) == [3, 4]
            assert [await task.result(timeout=10) for task in tasks] == [0, 1, 2]
