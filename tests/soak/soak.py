"""Durable work under faults: `make soak MINUTES=10`.

Three NATS nodes, producers, workers; every few seconds something is killed, frozen or stopped, at random. At the end
all are well again, and then: what was accepted is completed, nothing is lost, no key had two effects, nothing is stuck.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from support.nats_server import tied

from fabric_sdk import Fabric
from fabric_sdk.contracts.task import keyed_task_id
from soak.cluster import Cluster, cluster

HERE: Final = Path(__file__).parent
_WORKERS: Final = 3
_PRODUCERS: Final = 2
_RATE: Final = 25.0
"""Tasks a second from each producer: this is about faults; `make bench` is about speed."""
_HEAL_SECONDS: Final = 120.0
_BETWEEN: Final = (2.0, 6.0)
"""Seconds between two faults."""


@dataclass
class Figures:
    """What came of it."""

    accepted: int = 0
    completed: int = 0
    lost: list[int] = field(default_factory=list[int])
    repeated: dict[int, int] = field(default_factory=dict[int, int])
    missing: list[int] = field(default_factory=list[int])
    faults: Counter[str] = field(default_factory=Counter[str])
    seconds: float = 0.0
    healed: float = 0.0
    """Seconds from the last fault's end until everything was completed."""

    @property
    def is_well(self) -> bool:
        """Whether every promise was kept."""
        return self.accepted == self.completed > 0 and not (self.lost or self.repeated or self.missing)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {what}" for what, count in sorted(self.faults.items()))
        return (
            f"accepted {self.accepted}, completed {self.completed}, lost {len(self.lost)}, without effect "
            f"{len(self.missing)}, with more than one effect {len(self.repeated)}; {self.seconds:.0f} s, completed "
            f"{self.healed:.1f} s after the last fault; {faults}"
        )


class Processes:
    """Worker processes that are started again when they die, as a supervisor would."""

    def __init__(self, url: str, count: int) -> None:
        self._command = [*tied(), sys.executable, str(HERE / "crew.py"), url]
        self._ended = False
        self.running = [self._start() for _ in range(count)]
        self._watch = threading.Thread(target=self._keep, daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Kill all."""
        self._ended = True
        self._watch.join()
        for process in self.running:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _keep(self) -> None:
        while not self._ended:
            for number, process in enumerate(self.running):
                if process.poll() is not None:
                    self.running[number] = self._start()
            time.sleep(0.2)


def harm(nodes: Cluster, workers: Processes, chance: random.Random) -> tuple[str, Callable[[], None]]:
    """Do something bad; returns what it was, and what makes it well again."""
    node, worker = chance.choice(nodes.nodes), chance.choice(workers.running)
    kind = chance.choice(("kill node", "freeze node", "stop node", "kill worker", "freeze worker", "stop worker"))
    match kind:
        case "kill node":
            node.signal(signal.SIGKILL)
            return kind, node.start
        case "stop node":
            node.signal(signal.SIGTERM)
            return kind, node.start
        case "freeze node":
            node.signal(signal.SIGSTOP)
            return kind, lambda: node.signal(signal.SIGCONT)
        case "kill worker":
            worker.kill()
        case "freeze worker":
            worker.send_signal(signal.SIGSTOP)
            return kind, lambda: worker.send_signal(signal.SIGCONT)
        case _:
            worker.terminate()
    return kind, lambda: None


def soak(seconds: float, seed: int, say: Callable[[str], None] = print) -> Figures:
    """Run it for so long; one seed makes the same faults."""
    chance, figures = random.Random(seed), Figures()
    with tempfile.TemporaryDirectory(prefix="fabric-soak-") as folder, cluster(Path(folder)) as nodes:
        workers = Processes(nodes.url, _WORKERS)
        each = int(seconds * _RATE)
        producers = [_producer(nodes.url, number * each, each) for number in range(_PRODUCERS)]
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(chance.uniform(*_BETWEEN))
                kind, heal = harm(nodes, workers, chance)
                figures.faults[kind] += 1
                say(f"{seconds - (until - time.monotonic()):5.0f} s: {kind}")
                time.sleep(chance.uniform(*_BETWEEN))
                heal()
            nodes.wait()
            healing = time.monotonic()
            accepted = [
                int(line) for producer in producers for line in producer.communicate(timeout=_HEAL_SECONDS)[0].split()
            ]
            figures.accepted, figures.seconds = len(accepted), seconds
            asyncio.run(_count(nodes.url, accepted, figures))
            figures.healed = time.monotonic() - healing
        finally:
            for producer in producers:
                producer.kill()
            workers.close()
    return figures


def _producer(url: str, first: int, count: int) -> subprocess.Popen[str]:
    command = [*tied(), sys.executable, str(HERE / "producer.py"), url, str(first), str(count), str(_RATE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def _count(url: str, accepted: list[int], figures: Figures) -> None:
    """Wait until every accepted task has ended, and count the effects."""
    async with Fabric.connect(url) as fabric:
        crew = fabric.agent("crew")
        until = time.monotonic() + _HEAL_SECONDS
        for number in accepted:
            task = crew.task(keyed_task_id("crew", f"key-{number}", None))
            try:
                figures.completed += await task.result(timeout=max(1.0, until - time.monotonic())) == number
            except Exception as failure:  # whatever it is, this one is not well
                print(f"{number}: {type(failure).__name__}: {failure}")
                figures.lost.append(number)
        effects: Counter[int] = Counter()
        async with fabric.replay("soak.effect") as events:
            async for event in events:
                effects[event.data["number"]] += 1
    figures.repeated = {number: count for number, count in effects.items() if count > 1}
    figures.missing = [number for number in accepted if not effects[number]]


if __name__ == "__main__":
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    print(f"seed {seed}")
    outcome = soak(minutes * 60, seed)
    print(outcome)
    sys.exit(0 if outcome.is_well else 1)
