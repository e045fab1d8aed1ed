"""A supervisor whose child is a supervisor, and so on: run by `test_tether`, which kills the first of them.

    python family.py <mark> <tether> <loop> <children below>

Each prints its process id once it runs.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from fabric.process import ProcessSpec, Supervisor, Tether


async def main(mark: str, tether: str, loop: str, below: int) -> None:
    print(os.getpid(), flush=True)
    async with Supervisor(tether=Tether(tether)) as supervisor:
        if below:
            argv = (sys.executable, __file__, mark, tether, loop, str(below - 1))
            await supervisor.start(ProcessSpec(name="child", argv=argv))
        await asyncio.Event().wait()


if __name__ == "__main__":
    run = uvloop.run if sys.argv[3] == "uvloop" else asyncio.run
    run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
