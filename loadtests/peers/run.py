"""The product beside its peers: the same echo tool behind each, the same client, on this machine, in turns.

    .venv/bin/python loadtests/peers/run.py FOLDER [--python PYTHON] [--seconds 5] [--rounds 3]

FOLDER gets a virtual environment for each peer, from PyPI, and is kept; nothing else of the peers is. What is measured
and how is in the README beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sides import TEXT, Ground, Side, ask, contextforge, direct, fastmcp, product

SCRIPT = Path(__file__).resolve().parents[2] / "fabric" / "bench" / "tools_call.lua"
CONNECTIONS = (8, 32)
COUNTED_CALLS = 50
LATENCIES = 3
"""A turn lasts at least so many times as long as all connections need one after the other, however slow a side is."""


@dataclass(frozen=True)
class Alone:
    """What one call after the other shows."""

    seconds: float
    """Of a call."""
    upstream: float
    """Requests of a call that reach the upstream."""


@dataclass(frozen=True)
class Turn:
    """What one run of wrk found."""

    calls_per_second: float
    median_ms: float
    cpu_ms: float
    """Of a call, in all processes that it passes."""
    wrong: int
    first_wrong: str


def alone(side: Side) -> Alone:
    begin, before = time.perf_counter(), side.count()
    for _ in range(COUNTED_CALLS):
        if TEXT.encode() not in ask(side.url, side.body, side.lines):
            sys.exit(f"{side.name} does not echo")
    took = time.perf_counter() - begin
    return Alone(took / COUNTED_CALLS, (side.count() - before) / COUNTED_CALLS)


def settled(side: Side, quiet: float) -> int:
    """Wait until what wrk left behind is done, which would take the next one's turn; the upstream's count then."""
    count = side.count()
    while True:
        time.sleep(quiet)
        before, count = count, side.count()
        if count == before:
            return count


def measure(side: Side, one: Alone, connections: int, seconds: int) -> Turn:
    seconds = max(seconds, math.ceil(LATENCIES * connections * one.seconds))
    env = {"BENCH_TEXT": TEXT, "BENCH_BODY": side.body.decode()}
    env["BENCH_HEADERS"] = "".join(f"{name}: {value}\n" for name, value in side.lines.items())
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", SCRIPT]
    cpu, count = side.cpu_seconds(), side.count()
    output = subprocess.run([*wrk, side.url], env=os.environ | env, capture_output=True, text=True, check=True).stdout
    # What was worked on is more than what wrk waited for.
    done = (settled(side, 1.0 + LATENCIES * one.seconds) - count) / one.upstream
    cpu = side.cpu_seconds() - cpu
    requests, took, wrong, broken, median, *first = output.rpartition("\n")[2].split(" ", 5)
    right = int(requests) - int(wrong)
    rate = right / int(took) * 1e6
    return Turn(rate, int(median) / 1e3, cpu / done * 1e3, int(wrong) + int(broken), " ".join(first))


def table(sides: list[Side], ones: dict[str, Alone], turns: dict[tuple[str, int], list[Turn]]) -> list[dict[str, Any]]:
    """A row for each side and number of connections, of medians."""
    rows: list[dict[str, Any]] = []
    for connections in CONNECTIONS:
        for side in sides:
            taken = turns[side.name, connections]
            rate, median, cpu = (
                statistics.median(getattr(turn, member) for turn in taken)
                for member in ("calls_per_second", "median_ms", "cpu_ms")
            )
            rows.append(
                {
                    "name": side.name,
                    "version": side.version,
                    "revision": side.revision,
                    "connections": connections,
                    "calls_per_second": round(rate, 1),
                    "median_ms": round(median, 2),
                    "cpu_ms": round(cpu, 3),
                    "upstream_per_call": ones[side.name].upstream,
                    "wrong": sum(turn.wrong for turn in taken),
                }
            )
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """The table, and all of it as one line of JSON, with what the product's numbers are to each."""
    heads = ("calls/s", "p50 ms", "cpu ms/call", "upstream/call", "wrong", "x calls/s", "x cpu")
    print(f"{'':30}{'conns':>6}" + "".join(f"{head:>14}" for head in heads))
    product = {row["connections"]: row for row in rows if row["name"] == "product"}
    for row in rows:
        ours = product[row["connections"]]
        # A turn in which nothing came back measured nothing.
        row["ratio"] = round(ours["calls_per_second"] / row["calls_per_second"], 1) if row["calls_per_second"] else None
        row["cpu_ratio"] = round(row["cpu_ms"] / ours["cpu_ms"], 1)
        shown = ("calls_per_second", "median_ms", "cpu_ms", "upstream_per_call", "wrong", "ratio", "cpu_ratio")
        print(f"{row['name']:30}{row['connections']:6}" + "".join(f"{row[name]!s:>14}" for name in shown))
    print(json.dumps({"name": "gateway.peers", "rows": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description="The product beside its peers.")
    parser.add_argument("folder", type=Path, help="for the peers' virtual environments; kept")
    newest = next(filter(None, map(shutil.which, ("python3.13", "python3.12"))), sys.executable)
    parser.add_argument(
        "--python", default=newest, help="for the peers; ContextForge wants 3.12 or newer [%(default)s]"
    )
    parser.add_argument("--seconds", type=int, default=5, help="of a turn, at least [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="of turns; the median counts [%(default)s]")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended
    with ExitStack() as stack:
        ground = Ground(given.folder.resolve(), given.python, stack)
        makers = (product, direct, partial(fastmcp, kind="default"), partial(fastmcp, kind="shared"), contextforge)
        sides = [ground.side(make) for make in makers]
        ones = {side.name: alone(side) for side in sides}
        turns: dict[tuple[str, int], list[Turn]] = {}
        for _ in range(given.rounds):
            for connections in CONNECTIONS:
                for side in sides:
                    turn = measure(side, ones[side.name], connections, given.seconds)
                    turns.setdefault((side.name, connections), []).append(turn)
                    if turn.wrong:
                        print(f"{side.name}: {turn.wrong} wrong answers, first: {turn.first_wrong}", file=sys.stderr)
        report(table(sides, ones, turns))


if __name__ == "__main__":
    main()
