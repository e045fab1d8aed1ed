"""A supervisor whose child is a supervisor, and so on: run by `test_tether`, which kills the first of them.

    python family.py <mark> <tether> <loop> <children below>

Each prints its process id once it runs. Where descendants cannot get away, the last of them leaves some behind in every
way there is, and prints their process ids, too.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import uvloop

from fabric.process import ProcessSpec, Supervisor, Tether


def escapees(mark: str) -> list[int]:
    """The process ids of a copy, of a program in a session of its own, and of one whose parent is gone as well."""
    if (copy := os.fork()) == 0:
        time.sleep(1000)
    # Nothing of ours is left to know them by, in their environment neither; but the test knows them by the mark.
    forever = ["sh", "-c", "sleep 1000 & wait", mark]
    session = subprocess.Popen(forever, env={}, start_new_session=True).pid
    between = f"import subprocess; print(subprocess.Popen({forever!r}, start_new_session=True, stdout=2).pid)"
    orphan = int(subprocess.check_output([sys.executable, "-c", between], start_new_session=True))
    return [copy, session, orphan]


async def main(mark: str, tether: str, loop: str, below: int) -> None:
    print(os.getpid(), flush=True)
    if tether == Tether.TREE and not below:
        print(*escapees(mark), sep="\n", flush=True)
    async with Supervisor(tether=Tether(tether)) as supervisor:
        if below:
            argv = (sys.executable, __file__, mark, tether, loop, str(below - 1))
            await supervisor.start(ProcessSpec(name="child", argv=argv))
        await asyncio.Event().wait()


if __name__ == "__main__":
    run = uvloop.run if sys.argv[3] == "uvloop" else asyncio.run
    run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
