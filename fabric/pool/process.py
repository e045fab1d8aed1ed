"""One worker process: `python -m fabric.pool.process TARGET`. Connects, serves, drains on SIGTERM, exits 0.

Above: a supervisor, which waits for the ready file. Below: `target`, the SDK's worker, NATS. A process that loses
its broker keeps what it has in hand and waits; one that never had it says so and waits too.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import uvloop

from fabric import garbage, logs
from fabric.broker import connect_until
from fabric.pool.ready import BAD_USAGE, ReadyFile
from fabric.pool.target import described, load
from fabric.settings import load_settings
from fabric_sdk.contracts.errors import ConfigurationError, FabricError
from fabric_sdk.worker import Limits, Worker

log = logging.getLogger("fabric.worker")

_DRAIN_SECONDS: Final = 30.0


async def serve(target: str, *, nats_url: str, limits: Limits, name: str | None, ready: Path | None) -> None:
    """Serve `target` until SIGTERM or SIGINT, then drain."""
    servable = load(target, name=name)  # before signals are heard: an import that hangs is ended by them at once
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    # Functions that are not coroutines run in threads, as many at once as calls are handled at once.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(limits.concurrency))
    transport = await connect_until(stop, nats_url, name=f"worker {os.getpid()}")
    if transport is None:
        return
    worker = Worker(transport, servable, limits=limits)
    try:
        await worker.start()
        garbage.settle()
        with ReadyFile.of(ready):
            log.info("%s takes calls as %s", worker.description.name, worker.instance)
            await stop.wait()
            log.info("%s drains", worker)
            await worker.drain(_DRAIN_SECONDS)
    finally:
        await transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fabric.pool.process")
    parser.add_argument("target")
    parser.add_argument("--concurrency", type=int, default=Limits().concurrency)
    parser.add_argument("--name")
    parser.add_argument("--ready-file", type=Path)
    options = parser.parse_args()
    ready = ReadyFile(options.ready_file) if options.ready_file else None
    if ready is not None:
        ready.forget_refusal()
    try:
        settings = load_settings()
        logs.configure(settings.log_level)
        uvloop.run(
            serve(
                options.target,
                nats_url=settings.nats_url or "",
                limits=Limits(concurrency=options.concurrency),
                name=options.name,
                ready=options.ready_file,
            )
        )
    except ConfigurationError as mistake:
        if ready is not None:
            ready.refuse(mistake)  # the supervisor says it, once for all of the pool
        else:
            sys.stderr.write(f"error: {mistake}\n")
        sys.exit(BAD_USAGE)
    except FabricError as failure:
        sys.stderr.write(f"error: {failure}\n")
        sys.exit(1)
    except Exception as failure:  # the author's code failed as it started to serve
        log.debug("%s failed", options.target, exc_info=True)
        sys.stderr.write(f"error: {options.target} cannot be served: {described(failure)}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
