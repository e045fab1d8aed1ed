"""Tasks through the deaths of workers, clients and the server: what was accepted ends, and no effect by key is doubled.

Proves: MB-2, MB-5, PT-2, PT-3.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.nats_server import PrivateNats
from support.waiting import eventually
from tasks.conftest import Serve

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.streams import TASK_ACK_WAIT
from fabric_sdk.handle import Task
from fabric_sdk.patterns.start import Start
from fabric_sdk.tuning import ACK_WAIT

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(120)


@contextmanager
def hands(server: PrivateNats, folder: Path, count: int) -> Generator[subprocess.Popen[bytes]]:
    """So many worker processes of `crew`, each replaced when it dies."""
    command = [sys.executable, str(HERE / "hands.py"), server.url, str(folder), str(count)]
    environment = {**os.environ, ACK_WAIT: "1"}
    with (folder / "said").open("wb") as said:
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment)
    try:
        yield keeper
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(10)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(keeper.pid).children(), keeper]:
                process.kill()
            keeper.wait()


def lines(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def killed(folder: Path) -> int:
    """How many tasks killed their worker."""
    return len(list(folder.glob("killed-*")))


class Ledger:
    """An agent that writes down what it was told to, in a worker that lives on."""

    def __init__(self) -> None:
        self.booked: list[int] = []
        self.agent = Agent("ledger")

        @self.agent.tool
        async def book(context: Context, number: int) -> str:
            self.booked.append(number)
            return f"{number} by {context.key}"


async def gathered(tasks: list[Task], seconds: float) -> list[Any]:
    return await asyncio.gather(*(task.result(timeout=seconds) for task in tasks))


async def test_200_tasks_whose_worker_is_killed_at_a_random_point(
    fabric: Fabric, breakable: PrivateNats, serve: Serve, tmp_path: Path
) -> None:
    ledger, client = Ledger(), fabric.agent("crew")
    await serve(ledger.agent)
    began = time.monotonic()
    with hands(breakable, tmp_path, 4):
        tasks = await fabric.start_all([client.plan("work", {"number": n}) for n in range(200)])
        assert await gathered(tasks, 90) == list(range(200))
    records = [await task.status() for task in tasks]
    seconds, attempts = time.monotonic() - began, sum(record.attempt for record in records)
    print(f"200 tasks, {attempts} attempts, {seconds:.1f} s")
    assert killed(tmp_path) == 200, "each lost a worker of its own"

    await eventually(lambda: len(ledger.booked) >= 200, what="all effects within the fabric")
    assert sorted(ledger.booked) == list(range(200)), "what a task starts is started once, wherever it is killed"

    paid: dict[str, list[tuple[str, int]]] = {}
    kept: set[str] = set()
    for what, number, *rest in lines(tmp_path):
        if what == "paid":
            assert number not in kept, "a step on record is never repeated"
            paid.setdefault(number, []).append((rest[0], int(rest[1])))
        else:
            kept.add(number)
    assert len(paid) == 200
    for number, payments in paid.items():
        assert {key for key, _ in payments} == {tasks[int(number)].id}, "a repeated effect has the same key"
        tokens = [token for _, token in payments]
        assert tokens == sorted(set(tokens)), "and a higher token"
    assert sum(len(payments) > 1 for payments in paid.values()) >= 20, "which is not to be had for nothing"
    assert {each["error"] for record in records for each in record.errors} == {
        "its worker was lost; whether it finished is unknown"
    }


async def test_a_task_that_is_done_once_is_not_given_to_another_worker(
    fabric: Fabric, breakable: PrivateNats, tmp_path: Path
) -> None:
    poison = Body({"name": "poison", "arguments": {}})
    once = Start(agent="crew", params=poison, scope=scope_for(60.0), once=True)  # its policy allows three attempts
    with hands(breakable, tmp_path, 1):
        await fabric.tasks.start(once)
        async with asyncio.timeout(40), fabric.tasks.watch("crew", once.id) as changes:
            record = [each async for each in changes][-1]
    assert [(each["attempt"], each["error"], each["code"]) for each in record.errors] == [
        (1, "its worker was lost; whether it finished is unknown", errors.WorkerLost.code)
    ]
    assert record.state == "dead"


async def test_a_poisonous_task_dies_and_its_history_says_how(
    fabric: Fabric, breakable: PrivateNats, tmp_path: Path
) -> None:
    with hands(breakable, tmp_path, 1):
        task = await fabric.agent("crew").start("poison")
        with pytest.raises(errors.TaskDead, match="its worker was lost; whether it finished is unknown"):
            await task.result(timeout=40)
    letter = await fabric.dead.show(task.id)
    assert [(each["attempt"], each["error"]) for each in letter.errors] == [
        (n, "its worker was lost; whether it finished is unknown") for n in (1, 2, 3)
    ]


async def test_a_worker_that_was_frozen_past_its_time_cannot_overwrite_the_next_one(
    fabric: Fabric, breakable: PrivateNats, tmp_path: Path
) -> None:
    with hands(breakable, tmp_path, 2):
        task = await fabric.agent("crew").start("freeze", key="k")
        attempt, instance = await task.result(timeout=40)
        ended = await task.status()
        frozen = int(lines(tmp_path)[0][2])
        os.kill(frozen, signal.SIGCONT)
        await eventually(lambda: ["thawed"] in lines(tmp_path), what="the second life of the first attempt")
        other = await fabric.agent("crew").start("freeze", key="k")
        assert await other.result(timeout=10) == [attempt, instance]
        await asyncio.sleep(0.3)  # for its write, which is refused and shows nowhere
    assert attempt >= 2, "the frozen one may have been given the second, too"
    assert await task.status() == ended
    assert [each["error"] for each in ended.errors] == ["its worker was lost; whether it finished is unknown"] * (
        attempt - 1
    )


async def test_a_hundred_keys_started_at_once_from_five_processes_have_a_hundred_effects(
    breakable: PrivateNats, serve: Serve
) -> None:
    ledger = Ledger()
    await serve(ledger.agent)
    command = [sys.executable, str(HERE / "starters.py"), breakable.url, "100"]
    starters = [
        await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(5)
    ]
    try:
        for starter in starters:
            assert starter.stdout is not None
            assert await starter.stdout.readline() == b"ready\n"
        said = await asyncio.gather(*(starter.communicate(b"go\n") for starter in starters))
    finally:
        for starter in starters:
            if starter.returncode is None:
                starter.kill()
                await starter.wait()
    assert len({output for output, _ in said}) == 1, "all get the same results"
    assert [f"{n} by key-{n}" in said[0][0].decode() for n in range(100)] == [True] * 100
    assert sorted(ledger.booked) == list(range(100))


async def test_a_server_killed_while_tasks_are_started_and_done(
    fabric: Fabric, breakable: PrivateNats, serve: Serve
) -> None:
    ledger, crew, client = Ledger(), Agent("mill"), fabric.agent("mill")
    steps: Counter[tuple[int, str]] = Counter()
    begun: list[int] = []

    @crew.tool(task=Policy(attempts=20, first_wait=0.01))
    async def grind(context: Context, number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0.1)
        await context.once("step", lambda: steps.update([(number, "step")]))
        await context.fabric.agent("ledger").start("book", {"number": number})
        return number

    await serve(ledger.agent)
    await serve(crew, tasks=32)

    async def one(number: int) -> int:
        task = await client.start(
            "grind", {"number": number}, key=f"n{number}", priority="high" if number % 2 else "low"
        )
        return await task.result(timeout=60)

    async def kill() -> None:
        for after in (20, 100):
            await eventually(lambda after=after: len(begun) >= after, what=f"{after} tasks that were begun")
            breakable.kill()
            await asyncio.sleep(0.2)
            await asyncio.to_thread(breakable.start)

    killing = asyncio.create_task(kill())
    accepted = [asyncio.create_task(one(number)) for number in range(100)]
    await eventually(lambda: len(begun) >= 20, what="the first tasks", seconds=20)
    accepted += [asyncio.create_task(one(number)) for number in range(100, 200)]
    assert await asyncio.gather(*accepted) == list(range(200))
    await killing
    # What was on its way to the ledger when the server died comes again, once the time for a sign of life is over.
    await eventually(lambda: len(ledger.booked) >= 200, seconds=TASK_ACK_WAIT + 10, what="all effects")
    assert sorted(ledger.booked) == list(range(200))
    print(f"200 tasks, {len(begun)} attempts, {sum(steps.values())} steps")
    assert await asyncio.gather(*(one(number) for number in range(200))) == list(range(200))
    assert sorted(ledger.booked) == list(range(200))
