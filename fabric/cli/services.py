"""`fabric registry` and `fabric platform`: the platform's own agents, one process each, for containers.

Above: `main`. Below: `fabric.pool.process`, which one worker is. Nothing supervises it here: a container's engine does,
by the exit code and the ready file. `fabric up` starts the same targets by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.variables import warn_of_variables

ReadyOption = Annotated[
    Path | None, typer.Option("--ready-file", help="Exists while it takes calls; touched every second.")
]


def registry(ready_file: ReadyOption = None) -> None:
    """Keep the registry of the fabric that FABRIC_NATS_URL names, in FABRIC_REDIS_URL. SIGTERM drains it."""
    _serve("registry", "fabric.registry.service:build", ready_file)


def platform(ready_file: ReadyOption = None) -> None:
    """Serve the agents `durable`, `access`, `approvals` and `audit` to that fabric. SIGTERM drains them."""
    _serve("platform", "fabric.platform:build", ready_file)


def _serve(name: str, target: str, ready_file: Path | None) -> None:
    from fabric.pool import process  # with the worker: a moment that no other command shall pay
    from fabric.settings.passing import PROCESS

    warn_of_variables()
    os.environ.setdefault(PROCESS, name)  # what its logs and metrics call it
    process.main([target, *([] if ready_file is None else ["--ready-file", str(ready_file)])])
