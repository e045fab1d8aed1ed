"""`fabric worker`: a pool of worker processes for one target.

Above: `main`. Below: `fabric.pool`, whose processes it supervises and, with `--reload`, replaces.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its filters are untyped

from fabric.cli.connection import nats_url, refuse_others
from fabric.cli.console import err, fail, run
from fabric.cli.options import DataOption, label_pairs
from fabric.cli.processes import Shown
from fabric.cli.stopping import Stop
from fabric.observability.metrics_page import page_of_all
from fabric.pool.ready import ReadyFile
from fabric.pool.run_folder import run_folder
from fabric.pool.specs import PoolSpec, mistakes_told, with_mistakes, worker_specs
from fabric.process import Copies, ProcessStartError, Supervisor
from fabric.settings import Settings, load_settings
from fabric_sdk.cancelling import keep_on
from fabric_sdk.contracts.errors import ConfigurationError


def worker(
    target: Annotated[str, typer.Argument(help="module:object or file.py:object")],
    processes: Annotated[int, typer.Option("--processes", "-n", help="Worker processes.", min=1)] = 1,
    concurrency: Annotated[int, typer.Option(help="Calls, and tasks, that each process handles at once.", min=1)] = 64,
    name: Annotated[str | None, typer.Option(help="The agent's name, in place of the server's own.")] = None,
    capability: Annotated[
        list[str] | None, typer.Option(help="What the server can do: it takes what comes for @CAPABILITY. Repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="By what it is found. Repeatable.")
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Replace the workers when the code changes.")] = False,
    ready_file: Annotated[Path | None, typer.Option(help="Exists while all workers take calls.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics of all of them on this port.", min=0, max=65_535)
    ] = None,
    data: DataOption = None,
) -> None:
    """Serve an agent, or an MCP server object, from a pool of processes. SIGTERM drains it."""
    try:
        settings = load_settings(metrics_port=metrics_port)
        pool = PoolSpec(
            target=target,
            name=name,
            capabilities=tuple(capability or ()),
            labels=tuple(label_pairs(label or []).items()),
            concurrency=concurrency,
        )
    except ConfigurationError as mistake:
        fail(mistake)
    run(_worker(pool, processes, settings, reload=reload, ready_file=ready_file, url=_url(data)))


def _url(data: Path | None) -> str:
    async def found() -> str:
        url = nats_url(data)
        await refuse_others(url)  # for a NATS server that is not there yet, workers wait
        return url

    return run(found())


async def _worker(
    pool: PoolSpec, processes: int, settings: Settings, *, reload: bool, ready_file: Path | None, url: str
) -> None:
    stop = Stop()
    env = {"FABRIC_NATS_URL": url, "FABRIC_LOG_LEVEL": os.environ.get("FABRIC_LOG_LEVEL", "warning")}
    with run_folder() as run:
        async with Supervisor(with_mistakes(Shown(), run)) as supervisor:
            workers = Copies(supervisor, worker_specs(pool, run=run, env=env))
            metrics = page_of_all(supervisor, run, settings.metrics_host, settings.metrics_port)
            # Before any code is loaded: of a change that came in between, nobody would ever hear.
            async with _reloading(workers, pool, run) if reload else nullcontext():
                with metrics:
                    with mistakes_told(run):
                        await workers.scale(processes)
                    with ReadyFile.of(ready_file):
                        await stop.wait()


@asynccontextmanager
async def _reloading(workers: Copies, pool: PoolSpec, run: Path) -> AsyncGenerator[None]:
    """While the block runs, replace the workers when a Python file changes."""
    watching = keep_on(partial(_reload, workers, pool, run), "watching the code")
    await asyncio.sleep(0)  # its first step is that the kernel is told what to watch
    try:
        yield
    finally:
        watching.cancel()


async def _reload(workers: Copies, pool: PoolSpec, run: Path) -> None:
    """Replace the workers one by one at each change; a broken one changes nothing."""
    async for changes in awatch(*_watched(pool), watch_filter=PythonFilter()):
        changed = {Path(path) for _, path in changes}
        err.print(f"[cyan]changed[/]  {escape(', '.join(sorted({path.name for path in changed})))}")
        _forget_bytecode(changed)
        try:
            with mistakes_told(run):
                await workers.roll()
        except (ConfigurationError, ProcessStartError) as broken:
            err.print(f"[red]kept[/]     the workers as they were: {escape(str(broken))}", soft_wrap=True)


def _forget_bytecode(changed: Iterable[Path]) -> None:
    """Python takes a file for unchanged that has the same size and the same second as when it was compiled."""
    for path in changed:
        with suppress(OSError):  # in a folder that nobody may write to, nothing was kept either
            Path(cache_from_source(path)).unlink(missing_ok=True)


def _watched(pool: PoolSpec) -> set[Path]:
    """This folder, and that of the file that is served, if it is elsewhere."""
    here, where = Path.cwd(), pool.target.partition(":")[0]
    served = Path(where).resolve().parent if where.endswith(".py") else here
    return {here} if served.is_relative_to(here) else {here, served}
