"""Ties a new process to its parent's life, then becomes the program it was asked to run.

Above: `launch`, which runs this file by its path as the first step of every child. Below: the kernel alone.
It knows nothing of supervision, restarts or events, and imports only the standard library: it runs with `-I -S`,
where no package can be found, so that a child costs 15 ms more and no import of the product.

    python -I -S guard.py prctl <parent pid> <keep> program argument…  Linux: the kernel kills the child (PDEATHSIG)
    python -I -S guard.py pipe <descriptor> <keep> program argument…   elsewhere: a guard kills the group at end of file

`keep` are the descriptors that the program is to inherit, separated by commas.

Why a step of its own and not code between fork and exec in the parent: that code would run Python in a copy of a
process whose other threads are gone, where any lock they held stays locked for ever.

Either way the process that started this one sees its own child: same pid, same exit code, same signals.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from itertools import pairwise

RELEASE = b"."
"""Written into the pipe when the child has ended in an orderly way: the guard leaves and kills nothing."""

_PR_SET_PDEATHSIG = 1
_CANNOT_RUN = 126
_NOT_FOUND = 127


def main(arguments: list[str]) -> int:
    """Tie this process, then replace it with the program. Returns an exit code only if the program cannot be run."""
    mode, value, keep, *command = arguments
    kept = [int(descriptor) for descriptor in keep.split(",") if descriptor]
    # uvloop, unlike asyncio, hands on whatever is inheritable.
    _close_all_but([*kept, int(value)] if mode == "pipe" else kept)
    if mode == "prctl":
        die_with_parent(int(value))
    else:
        leave_guard(int(value))
    # Python ignores these two, and what is ignored stays ignored through exec: the program would inherit it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN


def die_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGKILL when the thread that started it ends; survives exec."""
    import ctypes  # only here: not every Python without prctl has it

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"cannot tie this process to its parent: {os.strerror(ctypes.get_errno())}")
    # The parent may have gone before the line above; then nobody would ever send the signal.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def leave_guard(pipe: int) -> None:
    """Leave a guard process behind that kills this process's group when the other end of `pipe` is gone."""
    leader = os.getpid()
    between = os.fork()
    if between:
        # By now the guard exists, and since it is nobody's child here, the program never has to reap it.
        os.waitpid(between, 0)
        os.close(pipe)
        return
    if os.fork():
        os._exit(0)
    _guard(pipe, leader)


def _guard(pipe: int, leader: int) -> None:
    os.setsid()  # out of the group that it may have to kill
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    # Hold nothing of the child's: not its output, not a lock that it inherited.
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    _close_all_but([pipe])
    if os.read(pipe, 1) != RELEASE:
        with suppress(ProcessLookupError, PermissionError):  # gone; macOS says "not permitted" for a group of zombies
            os.killpg(leader, signal.SIGKILL)
    os._exit(0)


def _close_all_but(kept: list[int]) -> None:
    """Close every descriptor but these, standard input, output and error."""
    bounds = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in pairwise(bounds):
        os.closerange(low + 1, high)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
