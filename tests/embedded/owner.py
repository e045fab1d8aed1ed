"""Starts both private servers in a data folder and waits: run by `test_servers`, which kills it.

    python owner.py <data folder> <tether>

Prints "ready" and the ports.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from fabric.embedded import open_data_folder, start_nats, start_valkey
from fabric.process import Supervisor, Tether


async def main(path: Path, tether: Tether) -> None:
    async with open_data_folder(path) as folder, Supervisor(tether=tether) as supervisor:
        nats = await start_nats(supervisor, folder)
        valkey = await start_valkey(supervisor, folder)
        print("ready", *(url.rsplit(":")[-1].split("/")[0] for url in (nats.url, valkey.url)), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Tether(sys.argv[2])))
