"""Worker processes that die: `python hands.py <nats url> <folder> <how many>` keeps so many until stdin ends.

Each is a fork. Their agent is `crew`. What they do to the outside world they write into `<folder>/log`, line by line.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
from pathlib import Path
from typing import Any

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Limits, Worker

POINTS = ("before", "inside", "between", "after", "end", "answered")
agent = Agent("crew")
folder = Path(sys.argv[2])


def note(line: str) -> None:
    """Write a line that no death of this process tears apart or takes back."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, f"{line}\n".encode())
    os.close(log)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(number: int, point: str) -> None:
    """Kill this process at the point that is drawn for this number, the first time that it comes there."""
    if random.Random(number).choice(POINTS) == point:
        try:
            (folder / f"killed-{number}").touch(exist_ok=False)
        except FileExistsError:
            return
        if point == "answered":  # while its end is written down
            asyncio.get_running_loop().call_later(random.Random(number).uniform(0, 0.003), die)
        else:
            die()


@agent.tool(task=Policy(attempts=1000, first_wait=0.01))
async def work(context: Context, number: int) -> int:
    """Do something outside, start something inside, and lose the process somewhere on the way."""
    assert context.task is not None
    token = context.task.token

    async def pay() -> int:
        note(f"paid {number} {context.key} {token}")
        die_once(number, "inside")
        return token

    die_once(number, "before")
    await context.once("pay", pay)
    note(f"kept {number}")
    die_once(number, "between")
    await context.fabric.agent("ledger").start("book", {"number": number})
    die_once(number, "after")
    await context.checkpoint("booked")
    die_once(number, "end")
    die_once(number, "answered")
    return number


@agent.tool(task=Policy(attempts=3, first_wait=0.01))
async def poison() -> None:
    """Kill whoever takes it."""
    die()


@agent.tool(task=Policy(attempts=5))
async def freeze(context: Context) -> list[Any]:
    """Stop for good in the first attempt, unless somebody lets the process go on."""
    assert context.task is not None
    note(f"begun {context.task.attempt} {os.getpid()}")
    if context.task.attempt == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        note("thawed")
    return [context.task.attempt, context.instance]


async def serve() -> None:
    transport = await NatsTransport.connect(sys.argv[1])
    await Worker(transport, agent, limits=Limits(tasks=4)).start()
    await asyncio.Event().wait()


def spawn() -> int:
    if (child := os.fork()) == 0:
        random.seed()
        asyncio.run(serve())
        os._exit(0)
    return child


def keep(count: int) -> None:
    """Replace each process that dies, until stdin ends."""
    children = {spawn() for _ in range(count)}
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        while gone := os.waitpid(-1, os.WNOHANG)[0]:
            children.remove(gone)
            children.add(spawn())
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    keep(int(sys.argv[3]))
