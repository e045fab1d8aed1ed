"""Starts one process that cannot outlive this one, and ends it.

Above: `child`. Below: `guard`, which the new process runs first, and asyncio's subprocesses.
It refuses to know why a process is started or ended.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from fabric.process import guard, output
from fabric.process.spec import ProcessSpec


class Tether(StrEnum):
    """How a process is made to go when its parent goes, however that goes."""

    PRCTL = "prctl"
    """The kernel sends it SIGKILL when the thread that started it ends: the event loop's, so normally the main thread.
    Its own children have to be tied by itself, in the same way."""
    PIPE = "pipe"
    """A small guard process holds the end of a pipe, and kills the whole process group when the other end is gone."""

    @classmethod
    def of_platform(cls) -> Tether:
        """The one to use here: the kernel's where there is one."""
        return cls.PRCTL if sys.platform == "linux" else cls.PIPE


class Launched:
    """A running process, leader of its own session and group. Made by `launch`."""

    def __init__(self, process: asyncio.subprocess.Process, release: int | None, log_start: int) -> None:
        self._process = process
        self._release = release
        self.log_start = log_start
        """Size of the log file when the process was started: what follows is its own."""

    @property
    def pid(self) -> int:
        """The process's id; also its group's."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; returns the exit code, or minus the number of the signal. Leaves nothing of its group."""
        code = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        return code

    def terminate(self) -> None:
        """Ask it to end. Only the process itself is asked: if it has children, it is the one to end them in order."""
        if self._process.returncode is None:
            # Not Process.terminate(): it may reap the process behind the back of asyncio's watcher thread,
            # and the exit code would be lost.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything in its group, now."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGKILL)

    def close(self) -> None:
        """Make sure that it has ended, and let its guard go."""
        self.kill()
        if self._release is not None:
            with suppress(BrokenPipeError):
                os.write(self._release, guard.RELEASE)
            os.close(self._release)
            self._release = None

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: "not permitted" for a group of zombies
            os.killpg(self.pid, number)


async def launch(spec: ProcessSpec, tether: Tether) -> Launched:
    """Start `spec`. A program that is there but cannot be run exits with code 126, having said why.

    Raises OSError when there can be no process at all: the program or the folder is missing, the log file cannot be
    written, or the system has no room for one more process.
    """
    env = {name: value for name, value in os.environ.items() if name not in spec.without} | dict(spec.env)
    program = spec.argv[0]
    # Asked here, because the new process could only tell by its exit code, when it may already count as started.
    if (os.sep not in program or program.startswith(os.sep)) and shutil.which(program, path=env.get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    read, write = os.pipe() if tether is Tether.PIPE else (None, None)
    log, log_start = None, 0
    try:
        if spec.log is not None:
            output.trim(spec.log)
            log = output.open_log(spec.log)
            log_start = os.fstat(log).st_size
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(guard.__file__))),
            *(tether.value, str(os.getpid() if read is None else read)),
            *(",".join(map(str, spec.descriptors)), *spec.argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=spec.cwd,
            pass_fds=(*spec.descriptors, *([] if read is None else [read])),
            start_new_session=True,  # Ctrl-C in the terminal reaches the parent alone, which then ends us in order
        )
        return Launched(process, write, log_start)
    except BaseException:
        if write is not None:
            os.close(write)
        raise
    finally:
        for descriptor in (read, log):
            if descriptor is not None:
                os.close(descriptor)
