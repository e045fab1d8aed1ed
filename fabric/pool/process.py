"""One worker process: `python -m fabric.pool.process TARGET`. Connects, serves, drains on SIGTERM, exits 0.

Above: a supervisor, which waits for the ready file. Below: `target`, the SDK's worker, NATS. A process that loses
its broker keeps what it has in hand and waits; one that never had it says so and waits too. One in which too many
threads hang drains by itself and exits with `WORN_OUT`, to be started afresh.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from fabric import garbage, logs
from fabric.broker import connect_until
from fabric.live import Announcer, LiveSettings, current_live, following
from fabric.named_files import check
from fabric.observability.metrics_page import page_of_one
from fabric.observability.metrics_process import told
from fabric.observability.metrics_socket import supervised
from fabric.observability.metrics_worker import counted, watched
from fabric.observability.otel import about
from fabric.observability.tracing import configure, exporting
from fabric.pool.blocking import Blocking
from fabric.pool.ready import ReadyFile
from fabric.pool.target import described, load
from fabric.pool.threads import Threads, leave
from fabric.settings import BAD_USAGE
from fabric.settings.passing import PROCESS
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts.address import shown
from fabric_sdk.contracts.description import Description, checked_traits
from fabric_sdk.contracts.errors import ConfigurationError, FabricError, TransportUnavailable
from fabric_sdk.transports.base import ConnectionEvent
from fabric_sdk.worker import Limits, Servable, Worker

log = logging.getLogger("fabric.worker")

WORN_OUT: Final = 3
"""Exit code of a process in which too many threads hang."""

_DRAIN_SECONDS: Final = 30.0
_HUNG_SECONDS: Final = 10.0
"""A function that still runs so long after its call has ended counts as one that never ends."""
_HUNG_SHARE: Final = 0.25
"""The share of the threads that may hang: half of those for calls, if tasks have taken all of theirs."""
_LOOK_SECONDS: Final = 1.0


async def serve(
    load_target: Callable[[], Servable],
    *,
    live: LiveSettings,
    limits: Limits,
    ready: ReadyFile | None,
    alone: bool,
    metrics: Path | None = None,
) -> int:
    """Serve a target until a signal, or too many threads hang; then drain, which SIGINT shortens. The exit code.

    Args:
        load_target: gives the target.
        live: the settings, which are followed here.
        limits: how much it takes at once.
        ready: the file that says how it is.
        alone: whether nobody else announces changes of the settings.
        metrics: the file that says where it is asked for what it counted, if that is not its supervisor's.
    """
    servable = load_target()  # before signals are heard: an import that hangs is ended by them at once
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    live.hear_hangup()
    nats_url = live.settings.nats_url or ""
    # Functions that are not coroutines run in threads: one for each call and each task, so that neither waits for the
    # other's.
    threads = Threads(limits.concurrency + limits.tasks)
    loop.set_default_executor(threads)
    if ready is not None:
        ready.refuse(_nobody_at(nats_url))
    transport = await connect_until(stop, nats_url, name=f"worker {os.getpid()}")
    if transport is None:
        return 0
    if ready is not None:
        ready.forget_refusal()
    transport.listen(_tell_of_nats)
    worker = Worker(transport, servable, limits=limits, middleware=(counted,))
    announcer = Announcer(_name(), lambda: Fabric.over(transport)) if alone else None
    watching = [keep_on(Blocking().run, "watching for what blocks the event loop")]
    try:
        await worker.start()
        if not _offers(worker.description) and not getattr(servable, "reactions", {}):
            log.warning("agent %s offers nothing: write a function with @agent.tool above it", worker.description.name)
        garbage.settle()
        living = ready.living(worker.description.name) if ready else nullcontext()
        resource = about(worker.description.name, worker.instance)
        spans, numbers = exporting(transport, resource), told(transport, resource, metrics)
        async with spans, numbers, watched(worker), following(live, announcer), living:
            log.info("%s takes calls as %s", worker.description.name, worker.instance)
            worn_out = await _worn_out(threads, stop)
            log.info("%s drains", worker)
            loop.add_signal_handler(signal.SIGINT, worker.hurry)
            await worker.drain(_DRAIN_SECONDS)
    finally:
        await end(watching)
        await transport.close()
    return WORN_OUT if worn_out else 0


async def _worn_out(threads: Threads, stop: asyncio.Event) -> bool:
    """Whether too many threads hang; false as soon as `stop` is set."""
    while True:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await stop.wait()
            return False
        except TimeoutError:
            hung = threads.hung(_HUNG_SECONDS)
        if hung > threads.number * _HUNG_SHARE:
            log.error(
                "%d of %d threads are taken by functions that still run though their calls have ended; this process "
                "drains and makes room for a fresh one (give what they wait for a timeout)",
                hung,
                threads.number,
            )
            return True


def _tell_of_nats(event: ConnectionEvent) -> None:
    if event == "disconnected":
        log.warning("NATS is away: what is in hand goes on, and nothing new comes until it is back")
    else:
        log.warning("NATS is back")


def _name() -> str:
    """What the process is called."""
    return os.environ.get(PROCESS, "worker")


def _offers(described: Description) -> bool:
    """Whether there is anything that somebody could ask for."""
    lists = described.tools, described.resources, described.resource_templates, described.prompts, described.streams
    return any(lists)


def _nobody_at(url: str) -> TransportUnavailable:
    return TransportUnavailable(
        f"no NATS server answers at {shown(url)}", fix="start one with `fabric up`, or check FABRIC_NATS_URL"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fabric.pool.process")
    parser.add_argument("target")
    parser.add_argument("--concurrency", type=int, default=Limits().concurrency)
    parser.add_argument("--name")
    parser.add_argument("--capability", action="append", default=[])
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--ready-file", type=Path)
    options = parser.parse_args(arguments)
    ready = ReadyFile(options.ready_file) if options.ready_file else None
    if ready is not None:
        ready.forget_refusal()
    try:
        alone = supervised() is None
        # Whoever supervises it has looked at what the settings name, and hands on what was found good.
        live = LiveSettings(check=check) if alone else LiveSettings()
        current_live.set(live)
        settings = live.settings
        logs.configure(settings)
        configure()
        if settings.nats_url is None:
            raise ConfigurationError("a worker needs NATS", fix="set FABRIC_NATS_URL, or start it with `fabric up`")
        traits = checked_traits(options.capability, dict(pair.split("=", 1) for pair in options.label))
        work = partial(
            serve,
            partial(load, options.target, name=options.name, traits=traits),
            live=live,
            limits=Limits(concurrency=options.concurrency, tasks=options.concurrency),
            ready=ready,
            alone=alone,
        )
        with page_of_one(_name(), settings.metrics_host, settings.metrics_port if alone else None) as metrics:
            code = uvloop.run(work(metrics=metrics))
    except ConfigurationError as mistake:
        if ready is not None:
            ready.refuse(mistake)
        if arguments is not None or ready is None:  # else its supervisor says it, once for all of the pool
            sys.stderr.write(f"error: {mistake}\n")
        code = BAD_USAGE
    except FabricError as failure:
        sys.stderr.write(f"error: {failure}\n")
        code = 1
    except Exception as failure:  # the author's code failed as it started to serve
        log.debug("%s failed", options.target, exc_info=True)
        sys.stderr.write(f"error: {options.target} cannot be served: {described(failure)}\n")
        code = 1
    leave(code)


if __name__ == "__main__":
    main()
