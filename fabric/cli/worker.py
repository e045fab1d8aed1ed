"""`fabric worker`: a pool of worker processes for one target."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its filters are untyped

from fabric.cli import events
from fabric.cli.connection import nats_url
from fabric.cli.console import err, run
from fabric.cli.options import DataOption
from fabric.cli.stopping import stop_signal
from fabric.pool.ready import ReadyFile
from fabric.pool.specs import PoolSpec, worker_specs
from fabric.process import Copies, ProcessStartError, Supervisor


def worker(
    target: Annotated[str, typer.Argument(help="module:object or file.py:object")],
    processes: Annotated[int, typer.Option("--processes", "-n", help="Worker processes.", min=1)] = 1,
    concurrency: Annotated[int, typer.Option(help="Calls each process handles at once.", min=1)] = 64,
    name: Annotated[str | None, typer.Option(help="The agent's name, in place of the server's own.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Replace the workers when the code changes.")] = False,
    ready_file: Annotated[Path | None, typer.Option(help="Exists while all workers take calls.")] = None,
    data: DataOption = None,
) -> None:
    """Serve an agent, or an MCP server object, from a pool of processes. SIGTERM drains it."""
    pool = PoolSpec(target=target, name=name, concurrency=concurrency)
    run(_worker(pool, processes, reload=reload, ready_file=ready_file, url=_url(data)))


def _url(data: Path | None) -> str:
    async def found() -> str:
        return nats_url(data)

    return run(found())


async def _worker(pool: PoolSpec, processes: int, *, reload: bool, ready_file: Path | None, url: str) -> None:
    stop = stop_signal()
    env = {"FABRIC_NATS_URL": url, "FABRIC_LOG_LEVEL": os.environ.get("FABRIC_LOG_LEVEL", "warning")}
    with tempfile.TemporaryDirectory(prefix="agent-fabric-run-") as run_folder:
        async with Supervisor(events.show) as supervisor:
            workers = Copies(supervisor, worker_specs(pool, run=Path(run_folder), env=env))
            await workers.scale(processes)
            with ReadyFile.of(ready_file):
                watching = asyncio.create_task(_reload(workers, stop)) if reload else None
                await stop.wait()
                if watching is not None:
                    watching.cancel()


async def _reload(workers: Copies, stop: asyncio.Event) -> None:
    """Replace the workers one by one when a Python file under this folder changes; a broken change changes nothing."""
    async for changes in awatch(Path.cwd(), watch_filter=PythonFilter(), stop_event=stop):
        err.print(f"[cyan]changed[/]  {', '.join(sorted({Path(path).name for _, path in changes}))}")
        try:
            await workers.roll()
        except ProcessStartError as broken:
            err.print(f"[red]kept[/]     the workers as they were: {broken.message}")
