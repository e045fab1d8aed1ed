"""Starts one process that cannot outlive this one, and ends it.

Above: `child`, `supervisor`. Below: `guard`, which keeps the new process, and asyncio's subprocesses.
It refuses to know why a process is started or ended.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from fabric.process import guard, output
from fabric.process.spec import ProcessSpec


class Tether(StrEnum):
    """How a process, and what it starts, is made to go when its parent goes, however that goes.

    Either way a small process, the keeper (`guard`), stays between the two for as long as the program runs.
    """

    TREE = "tree"
    """All that descends from it goes, also what has left its session, and what lost its own parent."""
    GROUP = "group"
    """Its process group goes; what has left the group stays."""

    @classmethod
    def of_platform(cls) -> Tether:
        """The one to use here: Linux alone lets a process keep hold of its descendants."""
        return cls.TREE if sys.platform == "linux" else cls.GROUP


class Launched:
    """A running program, leader of its own session and group, and its keeper. Made by `launch`."""

    def __init__(self, keeper: asyncio.subprocess.Process, channel: socket.socket, pid: int, log_start: int) -> None:
        self._keeper = keeper
        self._channel = channel
        self.pid = pid
        """The program's process id; also its group's."""
        self.log_start = log_start
        """Size of the log file when the process was started: what follows is its own."""

    async def wait(self) -> int:
        """Wait for the end; returns the exit code, or minus the number of the signal. Nothing it started remains."""
        ended = await self._keeper.wait()
        try:
            said = self._channel.recv(guard.WORD)
        except OSError:
            said = b""
        if said:
            return guard.number(said)
        with suppress(ProcessLookupError, PermissionError):  # its keeper was killed, and could not do this
            os.killpg(self.pid, signal.SIGKILL)
        return ended

    def terminate(self) -> None:
        """Ask it to end. Only the process itself is asked: if it has children, it is the one to end them in order."""
        self._pass_on(signal.SIGTERM)

    def hurry(self) -> None:
        """Ask it, having asked it to end, not to wait for anything any more."""
        # Another signal than the first: two of a kind may arrive as one, and a service manager sends SIGTERM to all.
        self._pass_on(signal.SIGINT)

    def kill(self) -> None:
        """End it and everything that it started, now."""
        with suppress(OSError):  # the keeper has ended
            self._channel.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Make sure that it ends, and let its keeper go."""
        self._channel.close()

    def _pass_on(self, number: signal.Signals) -> None:
        with suppress(OSError):  # the keeper has ended
            self._channel.send(bytes([number]))


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
    log, log_start = None, 0
    ours, theirs = socket.socketpair()
    try:
        if spec.log is not None:
            output.trim(spec.log)
            log = output.open_log(spec.log)
            log_start = os.fstat(log).st_size
        keeper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(guard.__file__))),
            *(tether.value, str(theirs.fileno()), ",".join(map(str, spec.descriptors))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=spec.cwd,
            pass_fds=(*spec.descriptors, theirs.fileno()),
            start_new_session=True,  # Ctrl-C in the terminal reaches the parent alone, which then ends us in order
        )
        theirs.close()
        return Launched(keeper, ours, await _begun(keeper, ours, spec.argv), log_start)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if log is not None:
            os.close(log)


async def _begun(keeper: asyncio.subprocess.Process, channel: socket.socket, argv: tuple[str, ...]) -> int:
    """Tell a keeper its program; the process id that it says."""
    # Not as arguments of the keeper's: `ps` would show the program twice.
    command = b"\0".join(map(os.fsencode, argv))
    channel.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(channel, b"%d\n%b" % (len(command), command))
        said = await loop.sock_recv(channel, guard.WORD)
    except ConnectionError:
        said = b""
    if not said:
        raise ChildProcessError(f"its keeper exited with code {await keeper.wait()}")
    return guard.number(said)
