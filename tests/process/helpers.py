"""What the tests of processes and of the private servers share: events to wait for, programs to supervise."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil

from fabric.process import Probe, ProcessEvent, ProcessSpec

E = TypeVar("E", bound=ProcessEvent)


class Events:
    """Receives a supervisor's events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.seen: list[ProcessEvent] = []
        self._queue: asyncio.Queue[ProcessEvent] = asyncio.Queue()

    def __call__(self, event: ProcessEvent) -> None:
        self.seen.append(event)
        self._queue.put_nowait(event)

    async def next(self, kind: type[E]) -> E:
        """The next event of this kind; those before it are passed over."""
        async with asyncio.timeout(10):
            while True:
                event = await self._queue.get()
                if isinstance(event, kind):
                    return event


def running(mark: str) -> set[int]:
    """The processes, guards too, that have `mark` in their command line; the dead whom nobody reaped have none."""
    found: set[int] = set()
    for process in psutil.process_iter(["cmdline"]):
        if any(mark in part for part in process.info["cmdline"] or ()):
            found.add(process.pid)
    return found


class Programs:
    """Makes small programs; all that one test starts carry its mark in their command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid4().hex

    def shell(self, name: str, script: str, **fields: Any) -> ProcessSpec:
        """A shell program; `$0` is the mark."""
        return ProcessSpec(name=name, argv=("sh", "-c", script, self.mark), **fields)

    def patient(self, name: str, **fields: Any) -> ProcessSpec:
        """Works until SIGTERM; then writes its name into the file `ended` and ends with code 0."""
        ended = shlex.quote(str(self.folder / "ended"))
        return self.shell(name, f"trap 'echo {name} >>{ended}; exit 0' TERM; {self._up(name)}; {_FOREVER}", **fields)

    def stubborn(self, name: str, **fields: Any) -> ProcessSpec:
        """Takes no notice of SIGTERM, and has a child in its group."""
        return self.shell(name, f"trap '' TERM; {self._up(name)}; sh -c '{_FOREVER}' {self.mark}", **fields)

    def is_up(self, name: str) -> Probe:
        """Passes once the program of this name runs and has set its traps."""

        async def probe() -> None:
            file = self._up_file(name)
            if not file.exists() or not psutil.pid_exists(int(file.read_text() or 0)):
                raise RuntimeError(f"{name} is not up")

        return probe

    @property
    def ended(self) -> list[str]:
        """The names of the programs that ended on SIGTERM, in order."""
        return (self.folder / "ended").read_text().split()

    @property
    def running(self) -> set[int]:
        return running(self.mark)

    def _up(self, name: str) -> str:
        return f"echo $$ >{shlex.quote(str(self._up_file(name)))}"

    def _up_file(self, name: str) -> Path:
        return self.folder / f"{name}.up"


# `wait` lets a trap act at once. What it waits for is in the program's group, and goes with it.
_FOREVER = "sleep 1000 & wait"
