"""How worker processes are described to a supervisor.

Above: `fabric worker`, `node`. Below: `fabric.process`. The target's own code is never imported here: a broken one
breaks its worker, which says why, and not the supervisor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fabric.pool.ready import ReadyFile
from fabric.process import ProcessSpec

_DRAIN_SECONDS = 35.0
"""SIGTERM to SIGKILL: a little longer than a worker gives its calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One pool."""

    target: str
    """`module:object` or `file.py:object`."""
    name: str | None = None
    """The agent's name in place of the server's own."""
    concurrency: int = 64
    """Calls each process handles at once."""

    @property
    def label(self) -> str:
        """What its processes are called."""
        module = self.target.partition(":")[0].removesuffix(".py")
        return self.name or module.rpartition("/")[2].rpartition(".")[2]


def worker_specs(pool: PoolSpec, *, run: Path, env: Mapping[str, str]) -> Callable[[int], ProcessSpec]:
    """Describes the process of a number.

    Args:
        pool: what it serves.
        run: folder for the files that say who is ready.
        env: where NATS is, and whatever else the workers need.
    """

    def spec(number: int) -> ProcessSpec:
        name = f"{pool.label}-{number}"
        ready = run / f"{name}.ready"
        argv = [sys.executable, "-m", "fabric.pool.process", pool.target, "--concurrency", str(pool.concurrency)]
        argv += ["--ready-file", str(ready)]
        if pool.name is not None:
            argv += ["--name", pool.name]
        return ProcessSpec(
            name=name, argv=tuple(argv), env=env, probe=ReadyFile(ready).probe, startup=60.0, grace=_DRAIN_SECONDS
        )

    return spec
