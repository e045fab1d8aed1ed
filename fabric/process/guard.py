"""Ties a new process to its parent's life, and with it whatever that process starts.

Above: `launch`, which runs this file by its path as the first step of every child. Below: the kernel alone.
It knows nothing of supervision, restarts or events, and imports only the standard library: it runs with `-I -S`,
where no package can be found, so that a child costs 15 ms more and no import of the product.

    python -I -S guard.py tree <socket> <keep>    Linux: keeps one program, and ends every descendant of it
    python -I -S guard.py group <socket> <keep>   elsewhere: keeps one program, and ends its process group
    python -I -S guard.py prctl <parent pid> <keep> program argument…   Linux: becomes the program; the kernel ends it

`keep` are the descriptors that the program is to inherit, separated by commas.

A keeper stays between its parent and the program. Over the socket it is told the program, tells its process id, hears
which signals to pass on, and tells the exit code. The end of the socket, which the kernel brings about when the parent
is killed, means: end all of it now. On Linux a keeper is a subreaper (prctl(2)): whoever below it loses its parent
becomes its child, also after setsid() and double forks, so nothing can get away from it; and if the keeper itself is
killed, the kernel kills the program. Elsewhere a process that leaves the program's group gets away.

Why a step of its own and not code between fork and exec in the parent: that code would run Python in a copy of a
process whose other threads are gone, where any lock they held stays locked for ever.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from itertools import pairwise
from types import FrameType
from typing import NoReturn

WORD = 4
"""Bytes of each number that a keeper tells; of one size, as two may be read at once."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_RUN = 126
_NOT_FOUND = 127


def main(arguments: list[str]) -> None:
    """Keep a program, or become one."""
    mode, value, keep, *command = arguments
    kept = [int(descriptor) for descriptor in keep.split(",") if descriptor]
    # uvloop, unlike asyncio, hands on whatever is inheritable.
    _close_all_but(kept if mode == "prctl" else [*kept, int(value)])
    if mode == "prctl":
        die_with_parent(int(value))
        _become(command)
    keep_program(int(value), tree=mode == "tree")


def keep_program(channel: int, *, tree: bool) -> None:
    """Run the program that is asked for over `channel` until it ends or has to; nothing it started remains."""
    os.set_inheritable(channel, False)
    command = _asked(channel)
    if not command:
        return  # the parent is gone already
    if tree:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # A signal can wake `select` only through a pipe; it is set up before there is a child whose end could be missed.
    wakes, wakeup = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(wakeup, False)
    signal.signal(signal.SIGCHLD, _heed)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    keeper = os.getpid()
    program = os.fork()
    if program == 0:
        os.setsid()
        if tree:
            die_with_parent(keeper)
        _become(command)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _let_go([channel, wakes, wakeup])
    _tell(channel, program)
    status = _attend(channel, wakes, program)
    with suppress(ProcessLookupError, PermissionError):  # gone; macOS says "not permitted" for a group of zombies
        os.killpg(program, signal.SIGKILL)
    if status is None:
        status = os.waitpid(program, 0)[1]
    if tree:
        _end_descendants()
    _tell(channel, os.waitstatus_to_exitcode(status))


def _heed(signum: int, frame: FrameType | None) -> None:
    """A signal that nobody handles wakes nobody."""


def die_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGKILL when the thread that started it ends; survives exec."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have gone before the line above; then nobody would ever send the signal.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _asked(channel: int) -> list[bytes]:
    """The program and its arguments; none if nobody asks any more."""
    with open(channel, "rb", closefd=False) as asking:
        size = int(asking.readline() or 0)
        said = asking.read(size)
    return said.split(b"\0") if size and len(said) == size else []


def number(word: bytes) -> int:
    """What a keeper told."""
    return int.from_bytes(word, "big", signed=True)


def _tell(channel: int, told: int) -> None:
    with suppress(BrokenPipeError):  # the parent is gone
        os.write(channel, told.to_bytes(WORD, "big", signed=True))


def _attend(channel: int, wakes: int, program: int) -> int | None:
    """Pass on signals, bury the dead. Returns when the program has ended: its status; or has to: `None`."""
    while True:
        readable, _, _ = select.select([channel, wakes], [], [])
        if wakes in readable:
            os.read(wakes, 4096)
        if (status := _bury(program)) is not None:
            return status
        if channel in readable:
            told = _heard(channel)
            if not told:
                return None
            for signum in told:
                os.kill(program, signum)  # it is not buried, so its number is nobody else's


def _heard(channel: int) -> bytes:
    try:
        return os.read(channel, 16)
    except ConnectionResetError:
        return b""


def _bury(program: int) -> int | None:
    """Reap every child that has ended, orphans too; the program's status if it is one of them."""
    status = None
    with suppress(ChildProcessError):
        while (buried := os.waitpid(-1, os.WNOHANG))[0]:
            if buried[0] == program:
                status = buried[1]
    return status


def _end_descendants() -> None:
    """Kill the children, whose own children become ours by that, until there are none."""
    spared: set[int] = set()  # another user's, by sudo for example: not ours to kill
    while doomed := _children() - spared:
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:
                spared.add(pid)
        for pid in doomed - spared:
            os.waitpid(pid, 0)


def _children() -> set[int]:
    """Of this process; found by its number in the files of all, as the kernel's own list may miss some."""
    parent, found = b"%d" % os.getpid(), set[int]()
    for pid in (entry.name for entry in os.scandir("/proc") if entry.name.isdigit()):
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - a child waits for each import
            if stat.read().rpartition(b")")[2].split()[1] == parent:
                found.add(int(pid))
    return found


def _become(command: list[str] | list[bytes]) -> NoReturn:
    # Python ignores the first two, a shell what it starts in the background the others, and what is ignored stays
    # ignored through exec: the program would inherit it.
    for signum in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {os.fsdecode(command[0])}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN)


def _prctl(option: int, value: int) -> None:
    import ctypes  # only here: not every Python without prctl has it

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        sys.exit(f"cannot tie this process to its parent: {os.strerror(ctypes.get_errno())}")


def _let_go(kept: list[int]) -> None:
    """Hold nothing of the program's: not its folder, not its output, not a lock that it inherited."""
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    _close_all_but(kept)


def _close_all_but(kept: list[int]) -> None:
    """Close every descriptor but these, standard input, output and error."""
    bounds = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in pairwise(bounds):
        os.closerange(low + 1, high)


if __name__ == "__main__":
    main(sys.argv[1:])
