"""Benchmarks run, their answers are checked, and results are written; how fast they are, is no test's business.

Two are left out, which take longest: what they add to others is how much is read, and who answers.

Proves: no row.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.running import FABRIC, wait_until

from fabric.bench.suite import BENCHMARKS

LATEST = Path("loadtests", "results", "latest.json")
FIELDS = {"name": str, "value": float, "unit": str, "floor": float, "ratio": float, "n": int}
TWINS = ("gateway.tools_call", "gateway.full_vs_sdk", "gateway.full_vs_sdk.tools")
"""Their halves are tried with others: `vs_sdk` has the product and a floor, `full` and `full_vs_mcpserver` the rest."""
TRIED = [each for each in BENCHMARKS.values() if each.name not in ("event.consume", *TWINS)]
OVER_HTTP = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk: apt-get install wrk")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project, and a folder in it."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "src").mkdir()
    return tmp_path


def bench(project: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FABRIC, "bench", *arguments],
        cwd=project / "src",
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("name", "unit"),
    [pytest.param(each.name, each.unit, marks=OVER_HTTP if each.needs_wrk else ()) for each in TRIED],
)
def test_a_benchmark_prints_its_result_and_writes_it_into_the_project(project: Path, name: str, unit: str) -> None:
    short = ("--seconds", "0.1", "--rounds", "1", "--tools", "200")
    ran = bench(project, name, *short, "--json", env={"FABRIC_ROOT": "somebody-else"})
    assert ran.returncode == 0, ran.stderr
    results: list[dict[str, Any]] = json.loads((project / LATEST).read_text())
    assert json.loads(ran.stdout) == results
    (result,) = results
    assert {field: type(value) for field, value in result.items()} == FIELDS
    assert (result["name"], result["unit"]) == (name, unit)
    assert min(result["value"], result["floor"], result["ratio"], result["n"]) > 0


def test_people_get_a_table(project: Path) -> None:
    ran = bench(project, "call.memory", "--seconds", "0.05", "--rounds", "1")
    heading, row = ran.stdout.splitlines()
    assert heading.split() == ["benchmark", "value", "floor", "unit", "ratio", "goal", "n"]
    assert row.split()[0] == "call.memory"
    assert row.split()[-2] == "0.2"


def test_an_unknown_name_is_answered_with_those_there_are(project: Path) -> None:
    ran = bench(project, "call.telepathy")
    assert ran.returncode == 2
    assert "there is no benchmark 'call.telepathy'" in ran.stderr
    assert "call.memory" in ran.stderr


def test_without_wrk_nothing_starts_and_the_fix_is_told(project: Path) -> None:
    ran = bench(project, "call.memory", "gateway.vs_sdk", env={"PATH": ""})
    assert ran.returncode == 2
    assert "the load generator wrk is not installed" in ran.stderr
    assert "apt-get install wrk" in ran.stderr
    assert not (project / LATEST).exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_nothing_is_left_when_it_is_stopped(project: Path, signum: signal.Signals) -> None:
    running = subprocess.Popen([FABRIC, "bench", "call.nats.latency"], cwd=project, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any("floors.worker" in command(each) for each in family(running)), seconds=30)
        started = family(running)
        running.send_signal(signum)
        assert running.wait(30) == (-signum if signum == signal.SIGKILL else 130)
        wait_until(lambda: all(map(is_gone, started)), what="the end of what was started")
    finally:
        running.kill()
        running.wait()
