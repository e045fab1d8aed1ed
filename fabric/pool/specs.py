"""How worker processes are described to a supervisor.

Above: `fabric worker`, `node`. Below: `fabric.process`. The target's own code is never imported here: a broken one
breaks its worker, which says why, and not the supervisor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fabric.pool.ready import ReadyFile
from fabric.process import Exited, OnEvent, ProcessEvent, ProcessSpec, ProcessStartError, Ready
from fabric.settings import BAD_USAGE, PoolSettings, Settings
from fabric.settings.keys import is_secret, variable
from fabric.settings.passing import PROCESS, RUN
from fabric_sdk.contracts.description import checked_traits
from fabric_sdk.contracts.errors import ConfigurationError, TransportUnavailable
from fabric_sdk.contracts.subjects import checked_agent_name

_PLATFORM_SECRETS = frozenset(
    f"{variable(name)}{suffix}" for name in Settings.model_fields if is_secret(name) for suffix in ("", "_FILE")
)
"""Not for the code of agents' authors: workers talk to NATS alone, and callers' tokens stay at the door."""
_STARTUP_SECONDS = 60.0
_GRACE_SECONDS = 45.0
"""SIGTERM to SIGKILL: longer than a worker takes at worst to end its calls (30 s), give back its tasks and close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One pool."""

    target: str
    """`module:object` or `file.py:object`."""
    name: str | None = None
    """The agent's name in place of the server's own."""
    capabilities: tuple[str, ...] = ()
    """What a server of another library can do, as the fabric should know; an `Agent` says so itself."""
    labels: tuple[tuple[str, str], ...] = ()
    """The same of its labels."""
    key: str | None = None
    """Its name in the configuration."""
    processes: int = 1
    """How many there are at first."""
    concurrency: int = 64
    """Calls each process handles at once."""
    silence: float = 30.0
    """For how many seconds a handler may block a process's event loop before the process is replaced."""

    def __post_init__(self) -> None:
        """Raises ConfigurationError for a name, capability or label that cannot be, and a file that is not there: soon,
        and not when brokers were started for it."""
        if self.name is not None:
            checked_agent_name(self.name)
        checked_traits(self.capabilities, dict(self.labels))
        where = self.target.partition(":")[0]
        if where.endswith(".py") and not Path(where).is_file():
            raise ConfigurationError(f"there is no file {where}", fix="check the path")

    @classmethod
    def configured(cls, key: str, pool: PoolSettings) -> PoolSpec:
        """The pool that the configuration calls `key`.

        Raises:
            ConfigurationError: as a spec itself.
        """
        return cls(key=key, **pool.model_dump(exclude={"labels"}), labels=tuple(pool.labels.items()))

    @property
    def label(self) -> str:
        """What its processes are called, if no other pool's are."""
        module = self.target.partition(":")[0].removesuffix(".py")
        return self.key or self.name or module.rpartition("/")[2].rpartition(".")[2] or "worker"


def labels(pools: Iterable[PoolSpec]) -> list[str]:
    """A label for each pool: servers in folders of their own are often called the same."""
    given: list[str] = []
    for pool in pools:
        before = sum(label.partition("~")[0] == pool.label for label in given)
        given.append(f"{pool.label}~{before + 1}" if before else pool.label)
    return given


def worker_specs(
    pool: PoolSpec, *, run: Path, env: Mapping[str, str], label: str | None = None
) -> Callable[[int], ProcessSpec]:
    """Describes the process of a number.

    Args:
        pool: what it serves.
        run: folder for the files that say who is ready.
        env: where NATS is, and whatever else the workers need.
        label: what its processes are called; by default the pool's own.
    """

    def spec(number: int) -> ProcessSpec:
        name = f"{label or pool.label}-{number}"
        ready = _ready_file(run, name)
        argv = [sys.executable, "-m", "fabric.pool.process", pool.target, "--concurrency", str(pool.concurrency)]
        argv += ["--ready-file", str(ready)]
        if pool.name is not None:
            argv += ["--name", pool.name]
        argv += [f"--capability={each}" for each in pool.capabilities]
        argv += [f"--label={name}={value}" for name, value in pool.labels]
        return ProcessSpec(
            name=name,
            argv=tuple(argv),
            env={**env, RUN: str(run), PROCESS: name},
            without=_PLATFORM_SECRETS,
            probe=ReadyFile(ready, silence=pool.silence).probe,
            startup=_STARTUP_SECONDS,
            grace=_GRACE_SECONDS,
        )

    return spec


@contextmanager
def mistakes_told(run: Path) -> Generator[None]:
    """A worker that did not start, and left word why, fails for that reason, told once for the whole pool.

    Raises:
        ConfigurationError: a mistake of its author's.
        TransportUnavailable: it found no NATS server.
        ProcessStartError: a worker did not start for any other reason.
    """
    try:
        yield
    except ProcessStartError as failed:
        why = ReadyFile(_ready_file(run, failed.name)).refusal()
        if isinstance(why, TransportUnavailable):
            why.message += f"; {failed.name} kept trying for {_STARTUP_SECONDS:g} s"
        raise why or failed from None


def with_mistakes(on_event: OnEvent, run: Path) -> OnEvent:
    """Tells events with what workers said: their agents' names, where they are called otherwise, and their mistakes."""
    names: dict[str, str] = {}

    def tell(event: ProcessEvent) -> None:
        if isinstance(event, Ready):
            agent = ReadyFile(_ready_file(run, event.name)).agent()
            other = agent is not None and agent != event.name.rpartition("-")[0]
            names[event.name] = f"{agent} ({event.name})" if other else event.name
        if isinstance(event, Exited) and event.code == BAD_USAGE:
            mistake = ReadyFile(_ready_file(run, event.name)).refusal()
            event = replace(event, reason=f"{event.reason}: {mistake}") if mistake else event
        on_event(replace(event, name=names.get(event.name, event.name)))

    return tell


def _ready_file(run: Path, name: str) -> Path:
    return run / f"{name}.ready"
