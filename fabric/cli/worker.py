"""`fabric worker`: a pool of worker processes for one target.

Above: `main`. Below: `fabric.pool`, whose processes it supervises and, with `--reload`, replaces.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import cache_from_source
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its filters are untyped

from fabric.cli.connection import nats_url, refuse_others, there_are
from fabric.cli.console import err, fail, run
from fabric.cli.options import ConfigOption, DataOption, label_pairs
from fabric.cli.processes import Shown, supervised
from fabric.cli.stopping import Stop
from fabric.live import Announcer, LiveSettings
from fabric.observability.metrics_page import page_of_all
from fabric.pool.ready import ReadyFile
from fabric.pool.run_folder import run_folder
from fabric.pool.sizes import followed
from fabric.pool.specs import PoolSpec, mistakes_told, with_mistakes, worker_specs
from fabric.process import Copies, ProcessStartError, Supervisor
from fabric.settings import Settings
from fabric.settings.passing import LiveFile, fixed
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts.errors import ConfigurationError


def worker(
    target: Annotated[
        str, typer.Argument(help="module:object or file.py:object, or the name of a pool of the configuration.")
    ],
    processes: Annotated[int | None, typer.Option("--processes", "-n", help="Worker processes. [1]", min=1)] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Calls, and tasks, that each process handles at once. [64]", min=1)
    ] = None,
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
    config: ConfigOption = None,
) -> None:
    """Serve an agent, or an MCP server object, from a pool of processes. SIGTERM drains it."""
    try:
        typed = {
            "processes": processes,
            "concurrency": concurrency,
            "name": name,
            "capabilities": tuple(capability or ()),
            "labels": tuple(label_pairs(label or []).items()),
        }
        live = supervised(config, {"metrics_port": metrics_port})
        pool = _pool(live.settings, target, {key: value for key, value in typed.items() if value})
    except ConfigurationError as mistake:
        fail(mistake)
    url = _url(data, live.settings)
    run(_worker(pool, live, url, scaled=processes is None, reload=reload, ready_file=ready_file))


def _pool(settings: Settings, target: str, typed: dict[str, Any]) -> PoolSpec:
    """What was typed goes before what the configuration says of the pool of this name, if there is one."""
    if target not in settings.pools:
        if _is_no_target(target):
            raise ConfigurationError(
                f"{target} is no module, and no pool of the configuration",
                fix=f"write module:object, file.py:object, or the name of a pool: {there_are(target, settings.pools)}",
            )
        return PoolSpec(target=target, **typed)
    return replace(PoolSpec.configured(target, settings.pools[target]), **typed)


def _is_no_target(target: str) -> bool:
    """Whether it is one word, and no module; nothing of theirs is run to find that out."""
    if set(target) & set(":./"):
        return False
    return target not in sys.modules and PathFinder.find_spec(target, [str(Path.cwd()), *sys.path]) is None


def _url(data: Path | None, settings: Settings) -> str:
    async def found() -> str:
        url = nats_url(data, settings)
        await refuse_others(url)  # for a NATS server that is not there yet, workers wait
        return url

    return run(found())


async def _worker(
    pool: PoolSpec, live: LiveSettings, url: str, *, scaled: bool, reload: bool, ready_file: Path | None
) -> None:
    stop = Stop()
    with run_folder() as run:
        file = LiveFile(run, live.settings)
        env = {**fixed(live.settings, secrets=False), **file.env, "FABRIC_NATS_URL": url}
        announcer = Announcer("fabric worker", lambda: Fabric.connect(url))
        async with Supervisor(with_mistakes(Shown(), run)) as supervisor:
            workers = Copies(supervisor, worker_specs(pool, run=run, env=env))
            pools = {pool.key: workers} if pool.key is not None and scaled else {}
            metrics = page_of_all(supervisor, run, live.settings.metrics_host, live.settings.metrics_port)
            # Before any code is loaded: of a change that came in between, nobody would ever hear.
            async with _reloading(workers, pool, run) if reload else nullcontext():
                with metrics:
                    with mistakes_told(run):
                        await workers.scale(pool.processes)
                    live.hear_hangup()
                    with ReadyFile.of(ready_file):
                        async with followed(live, pools, file, run, announcer):
                            await stop.wait()


@asynccontextmanager
async def _reloading(workers: Copies, pool: PoolSpec, run: Path) -> AsyncGenerator[None]:
    """While the block runs, replace the workers when a Python file changes."""
    watching = keep_on(partial(_reload, workers, pool, run), "watching the code")
    await asyncio.sleep(0)  # its first step is that the kernel is told what to watch
    try:
        yield
    finally:
        await end([watching])


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
