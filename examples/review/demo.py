"""The demo: a real source tree, reviewed through a fabric while one of its workers is killed.

    make demo                   reviews the standard library of the Python that runs it
    make demo REPO=../project   reviews another tree

Starts a fabric with the agents `reader` and `metrics`, and a pool of two `linter` workers; has `driver.py` review
every file; half-way, kills a linter with SIGKILL. Exits 0 only if no review is missing. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import sysconfig
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from driver import Unusable, connected, review
from report import Kill, complaints, console, show
from rich.markup import escape
from tree import Tree

HERE: Final = Path(__file__).parent
FABRIC: Final = str(Path(sys.executable).with_name("fabric"))
CONCURRENCY: Final = "8"
"""Calls that a worker handles at once: each of a linter's is a process of its own."""
LINTERS: Final = 2

BARE: Final = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
"""An environment that names no fabric: the demo kills a worker, and that had better be one of its own."""

NOT_REVIEWED: Final = frozenset({"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"})
"""Left out of the standard library: its tests, its applications, what it carries of others."""
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 45.0
LOOKS: Final = 20

STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OK, MISSING, USAGE, INTERRUPTED = 0, 1, 2, 130


class Broken(Exception):
    """A part of the fabric did not start."""


@dataclass(frozen=True, slots=True)
class Running:
    """The running fabric, as the demo needs it."""

    mcp_url: str
    token: str
    linters: list[int]
    """Process ids."""


@asynccontextmanager
async def fabric(tree: Tree) -> AsyncGenerator[Running]:
    """A fabric that reviews `tree`: the platform, one reader, one metrics, two linters."""
    with tempfile.TemporaryDirectory(prefix="fabric-demo-") as folder:
        up, pool = Path(folder) / "up.json", Path(folder) / "linters.ready"
        agents = (str(HERE / "reader.py"), str(HERE / "metrics.py"))
        options = ("--ephemeral", "--port", "0", "--concurrency", CONCURRENCY)
        async with _command("up", *options, *agents, ready=up, env=tree.environment()):
            connection = json.loads(up.read_text())
            bus = {"FABRIC_NATS_URL": connection["nats_url"]}
            linters = (str(HERE / "linter.py"), "--processes", str(LINTERS), "--concurrency", CONCURRENCY)
            async with _command("worker", *linters, ready=pool, env=bus):
                yield Running(connection["mcp_url"], connection["token"], await _linters(bus))


async def _linters(bus: dict[str, str]) -> list[int]:
    """The process ids of the linters, once `fabric ps` knows them all."""
    found: list[int] = []
    for _ in range(LOOKS):
        ps = await asyncio.create_subprocess_exec(FABRIC, "ps", "--json", env={**BARE, **bus}, stdout=PIPE)
        out, _ = await ps.communicate()
        if ps.returncode != 0:
            raise Broken(f"fabric ps ended with code {ps.returncode}")
        agents: list[dict[str, Any]] = json.loads(out)["agents"]
        found = [beat["pid"] for agent in agents if agent["name"] == "linter" for beat in agent["instances"]]
        if len(found) == LINTERS:
            return found
    raise Broken(f"fabric ps lists {len(found)} linters, not {LINTERS}")


@asynccontextmanager
async def _command(command: str, *arguments: str, ready: Path, env: dict[str, str]) -> AsyncGenerator[None]:
    """A `fabric` command for as long as the block runs. What it says is shown; SIGTERM ends it."""
    process = await asyncio.create_subprocess_exec(
        *(FABRIC, command, *arguments, "--ready-file", str(ready)),
        env={**BARE, "FABRIC_LOG_LEVEL": "warning", "COLUMNS": "200", **env},
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        process_group=0,  # Ctrl-C reaches the demo alone, which then stops its parts in order
    )
    telling = asyncio.create_task(_tell(process))
    try:
        await _ready(process, ready, f"fabric {command}")
        yield
    finally:
        _turn_deaf()
        await _stop(process)
        await telling


async def _tell(process: Process) -> None:
    """Show what a process says, line by line, but for its farewell: the demo says that once for all."""
    assert process.stderr is not None
    async for line in process.stderr:
        if not line.startswith(b"stopping: "):
            console.print(f"  [dim]fabric │ {escape(line.decode(errors='replace').rstrip())}[/]", soft_wrap=True)


async def _ready(process: Process, ready: Path, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not await asyncio.to_thread(ready.exists):
        if process.returncode is not None:
            raise Broken(f"{what} ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise Broken(f"{what} is not ready after {START_SECONDS:g} s")
        await asyncio.sleep(0.05)


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


class Killer:
    """Kills one worker, and remembers when."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.kill: Kill | None = None

    def __call__(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.kill = Kill(self.pid, time.monotonic())
        console.print(f"  [red]half-way: kill -9 {self.pid}[/], one of the {LINTERS} linters")


async def demo(tree: Tree) -> int:
    """The whole of it; returns the exit code."""
    console.print(f"[bold]Reviewing the {len(tree.sources()):,} Python files of {escape(str(tree.root))}[/]")
    console.print(f"[dim]with a fabric of its own: 1 reader, 1 metrics, {LINTERS} linters[/]")
    async with fabric(tree) as running, connected(running.mcp_url, running.token) as client:
        killer = Killer(running.linters[0])
        complete = show(await review(client, half_way=killer), killer.kill)
        console.print("[dim]stopping[/]")
    return OK if complete else MISSING


def chosen(repo: str | None) -> Tree:
    """The tree to review.

    Raises:
        ValueError: there is nothing to review.
    """
    tree = (
        Tree(Path(repo).expanduser().resolve())
        if repo
        else Tree(Path(sysconfig.get_path("stdlib")).resolve(), NOT_REVIEWED)
    )
    if not tree.root.is_dir():
        raise ValueError(f"there is no folder {repo}")
    if not tree.sources():
        raise ValueError(f"there are no Python files in {repo}")
    return tree


async def _until_told(tree: Tree) -> int:
    """The demo, cancelled by the first signal to stop."""
    work = asyncio.create_task(demo(tree))
    for signum in STOPS:
        asyncio.get_running_loop().add_signal_handler(signum, work.cancel)
    return await work


def _turn_deaf() -> None:
    """From now on no signal disturbs: what is left to do is to clean up."""
    for signum in STOPS:
        asyncio.get_running_loop().remove_signal_handler(signum)
        signal.signal(signum, signal.SIG_IGN)


def main() -> int:
    parser = argparse.ArgumentParser(description="Review a Python source tree through a fabric.")
    parser.add_argument("--repo", help="the tree's folder; by default the standard library of this Python")
    try:
        tree = chosen(parser.parse_args().repo)
    except ValueError as nothing:
        complaints.print(f"[red]error:[/] {escape(str(nothing))}", soft_wrap=True)
        return USAGE
    try:
        return asyncio.run(_until_told(tree))
    except (asyncio.CancelledError, KeyboardInterrupt):
        console.print("[yellow]stopped before the end[/]")
        return INTERRUPTED
    except (Broken, Unusable) as broken:
        complaints.print(f"[red]error:[/] {escape(str(broken))}", soft_wrap=True)
        return MISSING


if __name__ == "__main__":
    sys.exit(main())
