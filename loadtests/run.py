"""`make load`: a fabric with everything on, locust against it, and a verdict. README.md says what is measured and how.

    python -m loadtests.run [--chaos] [--soak HOURS] [--seconds 20] [--only PHASE]

Above: make. Below: `ground`, locust (in an environment of its own), `judging`. Writes `results/load/`: locust's HTML
report of each phase, `load.json` with one line, a soak's samples and plot. Ends with 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fabric_sdk import Fabric, FabricError
from loadtests.ground import HARMS, Ground, ground
from loadtests.judging import Figures, Target, misses, read
from loadtests.soaking import Watch, leaks

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results" / "load"
LOCUST: Final = HERE / ".venv" / "bin" / "locust"
_BETWEEN_HARMS: Final = 5.0
_HEAL_SECONDS: Final = 90.0
_SAMPLES: Final = 500
"""Of a soak: enough to draw, and to see a line in."""
_MIXED: Final = ("Modern", "Session", "Socket", "Tasks", "Events", "Streams")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One run of locust."""

    name: str
    users: tuple[str, ...]
    """Classes in `locustfile`."""
    count: int
    pace: float = 0.0
    """Requests a second of each user; 0: as fast as answers come."""
    target: Target = field(default_factory=Target)


QUIET: Final = (
    Phase(name="saturated", users=("Modern",), count=32, target=Target(rate=2000)),
    Phase(name="paced", users=("Modern",), count=52, pace=20, target=Target(rate=1000, p95=50)),
    Phase(name="mixed", users=_MIXED, count=40, pace=10, target=Target(p95=200)),
)
CHAOS: Final = (Phase(name="chaos", users=_MIXED, count=40, pace=10, target=Target(errors=0.001)),)
SOAK: Final = (Phase(name="soak", users=_MIXED, count=40, pace=5, target=Target(p95=200)),)


@dataclass(slots=True)
class Outcome:
    """What one phase came to."""

    figures: dict[str, Figures]
    generator_us: float
    """Microseconds of CPU that the load itself cost, for each request."""
    fabric_us: dict[str, float]
    """And the fabric's processes; not known of those that were killed."""
    repeated: int
    """Requests that were sent again after a broken connection or a `Retry-After`."""
    accepted: list[str]
    failures: list[str]
    """The first few, in words."""
    harms: Counter[str]


def main() -> int:
    """Run it; the exit code."""
    asked = _arguments()
    if not LOCUST.exists():
        sys.exit("locust is not installed here; start this with: make load")
    RESULTS.mkdir(parents=True, exist_ok=True)
    phases = CHAOS if asked.chaos else SOAK if asked.soak else QUIET
    seconds = asked.soak * 3600 if asked.soak else asked.seconds * (2 if asked.chaos else 1)
    verdict: dict[str, Any] = {"name": "load", "cores": os.cpu_count(), "seconds": seconds, "phases": {}}
    missed: list[str] = []
    accepted: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fabric-load-") as folder, ground(Path(folder)) as fabric:
        watch = Watch(fabric, max(2.0, seconds / _SAMPLES)) if asked.soak else None
        for phase in phases:
            if asked.only in (None, phase.name):
                outcome = run(phase, fabric, Path(folder), seconds, chaos=asked.chaos)
                accepted += outcome.accepted
                missed += misses(phase.name, outcome.figures["all"], phase.target)
                verdict["phases"][phase.name] = _shown(outcome)
        if watch is not None:
            missed += _soaked(watch, len(accepted))
        lost = asyncio.run(unended(fabric.nats_url, accepted))
    verdict |= {"accepted": len(accepted), "lost": len(lost), "missed": missed + [f"lost: {each}" for each in lost]}
    line = json.dumps(verdict | {"passed": not verdict["missed"]})
    (RESULTS / "load.json").write_text(line + "\n")
    print(line)
    return 1 if verdict["missed"] else 0


def run(phase: Phase, fabric: Ground, folder: Path, seconds: float, *, chaos: bool) -> Outcome:
    """One phase, from its first request to locust's report."""
    env = {
        **os.environ,
        "LOAD_HOST": fabric.host,
        "LOAD_PORT": str(fabric.port),
        "LOAD_TOKEN": fabric.token,
        "LOAD_PACE": str(phase.pace),
        "LOAD_OUT": str(folder),
    }
    report = RESULTS / f"{phase.name}.html"
    command = [str(LOCUST), "-f", str(HERE / "locustfile.py"), "--headless", "--only-summary", "-L", "ERROR"]
    command += ["-u", str(phase.count), "-r", str(phase.count), "-t", f"{seconds:.0f}s", "--stop-timeout", "40"]
    command += ["--html", str(report), "--json-file", str(folder / "stats"), "--exit-code-on-error", "0", *phase.users]
    before, harms = fabric.cpu(), Counter[str]()
    ended = threading.Event()
    harming = threading.Thread(target=_harm, args=(fabric, harms, ended), daemon=True)
    if chaos:
        harming.start()
    print(f"{phase.name}: {', '.join(phase.users)}; {phase.count} users, {seconds:.0f} s", file=sys.stderr)
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    ended.set()
    if chaos:
        harming.join()
    used = {kind: now - before[kind] for kind, now in fabric.cpu().items()}
    said = json.loads((folder / "generator.json").read_text())
    entries: list[dict[str, Any]] = json.loads((folder / "stats.json").read_text())
    begun, last = min(each["start_time"] for each in entries), max(each["last_request_timestamp"] for each in entries)
    found = read(entries, min(last - begun, seconds))  # after that, the last ones only end
    each_us = 1e6 / max(found["all"].requests, 1)
    return Outcome(
        figures=found,
        generator_us=round(said["cpu"] * each_us, 1),
        fabric_us={} if chaos else {kind: round(seconds * each_us, 1) for kind, seconds in used.items()},
        repeated=said["repeated"],
        accepted=said["accepted"],
        failures=said["failures"],
        harms=harms,
    )


def _harm(fabric: Ground, harms: Counter[str], ended: threading.Event) -> None:
    """Kill one process after the other, in turns, each time with as long to come back."""
    chance, turn = random.Random(), 0
    while not ended.wait(_BETWEEN_HARMS):
        kind = HARMS[turn % len(HARMS)]
        turn += 1
        if fabric.harm(kind, chance):
            harms[kind] += 1
            print(f"  killed: {kind}", file=sys.stderr)


async def unended(url: str, accepted: Sequence[str]) -> list[str]:
    """What was accepted and is not there: tasks that do not complete, events that nobody can read."""
    tasks = [each for each in accepted if not each.startswith("event ")]
    events = {each.removeprefix("event ") for each in accepted} - set(tasks)
    until = time.monotonic() + _HEAL_SECONDS
    lost: list[str] = []
    async with Fabric.connect(url) as fabric:
        for name in tasks:
            agent, _, task_id = name.partition(".")
            try:
                left = max(1.0, until - time.monotonic())
                if await fabric.agent(agent).task(task_id).result(timeout=left) != 3:
                    lost.append(name)
            except FabricError as failure:
                lost.append(f"{name}: {failure}")
        if events:
            async with fabric.replay("load.told") as told:
                async for event in told:
                    events.discard(event.id)
    return lost + sorted(f"event {each}" for each in events)


def _soaked(watch: Watch, kept: int) -> list[str]:
    """Draw what was seen; what of it only goes up."""
    samples = watch.stop()
    seen, plot = RESULTS / "samples.json", RESULTS / "soak.png"
    seen.write_text(json.dumps(samples))
    subprocess.run([str(LOCUST.with_name("python")), str(HERE / "plot.py"), str(seen), str(plot)], check=True)
    print(f"drawn: {plot}", file=sys.stderr)
    return leaks(samples, kept)


def _shown(outcome: Outcome) -> dict[str, Any]:
    shown: dict[str, Any] = {"classes": {name: asdict(each) for name, each in sorted(outcome.figures.items())}}
    shown |= {"generator_us": outcome.generator_us, "fabric_us": outcome.fabric_us, "repeated": outcome.repeated}
    shown |= {"failures": outcome.failures} if outcome.failures else {}
    return shown | ({"killed": dict(outcome.harms)} if outcome.harms else {})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chaos", action="store_true", help="kill a worker, a gateway, Redis, NATS, in turns")
    parser.add_argument("--soak", type=float, metavar="HOURS", help="so long, watching memory and descriptors")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--only", choices=[phase.name for phase in (*QUIET, *CHAOS, *SOAK)], help="this phase alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
