"""Runs the public MCP conformance suite against a URL and reads what it found.

The suite runs one scenario or all of a revision in a process; it cannot run a chosen few. All of a revision takes about
2 s against a quick server, a process of its own for each of a dozen takes 4 s. So more than a few run with all the
others in one process; what left no report there, because the process was held up by a scenario nobody asked for, runs
again on its own.
"""

import re
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clients import node
from pydantic import BaseModel, Field, TypeAdapter

FEW = 5
PROCESSES = 2  # some checks allow the server 0.5 s for its first frame: more processes would measure the machine
SCENARIO_SECONDS = 60
SUITE_SECONDS = 60
REQUIRED_SECONDS = 600
QUOTED_LINES = 6

Status = Literal["SUCCESS", "FAILURE", "WARNING", "SKIPPED", "INFO"]


class Check(BaseModel, frozen=True):
    """One check of a scenario, as the suite wrote it down."""

    id: str
    name: str
    description: str
    status: Status
    message: str | None = Field(default=None, alias="errorMessage")
    details: object = None

    def __str__(self) -> str:
        return f"{self.status} {self.id} ({self.name}): {self.message or self.description}"


@dataclass(frozen=True)
class Scenario:
    """What one scenario found."""

    name: str
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> tuple[Check, ...]:
        """Checks that failed. A warning is a SHOULD of the specification that was not met, and counts too."""
        return tuple(check for check in self.checks if check.status in ("FAILURE", "WARNING"))

    @property
    def passed(self) -> bool:
        """True when nothing is wrong and something was really checked."""
        return not self.wrong and any(check.status == "SUCCESS" for check in self.checks)


def run(url: str, revision: str, scenarios: Sequence[str]) -> dict[str, Scenario]:
    """Runs the scenarios on the wire of `revision` and returns what each found, in the order given.

    A scenario that leaves no report (unknown, crashed, too slow) comes back with one failed check that quotes the
    suite's own words. Raises `clients.node.NodeMissing` when the suite is not installed.
    """
    version = ("--spec-version", revision)
    with _folder() as folder:
        if len(scenarios) > FEW:
            _suite(folder, url, ("--suite", "all", *version), seconds=SUITE_SECONDS)
        reported = _read(folder)
        missing = [name for name in scenarios if name not in reported]

        def alone(name: str) -> str:
            # By force, since those of an extension are of no revision.
            return _suite(folder, url, ("--scenario", name, *version, "--force"), seconds=SCENARIO_SECONDS)

        with ThreadPoolExecutor(PROCESSES) as pool:
            printed = dict(zip(missing, pool.map(alone, missing), strict=True))
        found = _read(folder)
    return {name: found.get(name) or _no_report(name, printed[name]) for name in scenarios}


def run_required(url: str, revision: str) -> dict[str, Scenario]:
    """Runs the suite's own frozen set for `revision`, in one process: every scenario in it, scored or not."""
    with _folder() as folder:
        output = _suite(folder, url, ("--requirements", revision), seconds=REQUIRED_SECONDS)
        found = _read(folder)
    started = re.findall(r"^=== Running scenario: (\S+) ===$", output, flags=re.MULTILINE)
    if not started:
        raise RuntimeError(f"The conformance suite ran nothing:\n{output}")
    return {name: found.get(name) or _no_report(name, output) for name in started}


@contextmanager
def _folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        yield Path(name)


def _suite(folder: Path, url: str, choice: Iterable[str], *, seconds: int) -> str:
    """Runs the suite once and returns all it printed. Its exit code says nothing that the reports do not say."""
    program = node.program("@modelcontextprotocol/conformance", "conformance")
    command = [node.node(), program, "server", "--url", url, "--output-dir", folder, *choice]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        return f"{printed}\n(stopped: not finished within {seconds} s)"
    return done.stdout


_FOLDER_NAME = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{3}Z")
_CHECKS = TypeAdapter(tuple[Check, ...])


def _read(folder: Path) -> dict[str, Scenario]:
    """Every report below `folder`, by scenario."""
    found: dict[str, Scenario] = {}
    for report in folder.glob("*/checks.json"):
        if named := _FOLDER_NAME.fullmatch(report.parent.name):
            name = named["scenario"]
            found[name] = Scenario(name, _CHECKS.validate_json(report.read_bytes()))
    return found


def _no_report(name: str, output: str) -> Scenario:
    lines = output.strip().splitlines()
    said = "\n".join(
        lines if len(lines) <= 2 * QUOTED_LINES else [*lines[:QUOTED_LINES], "...", *lines[-QUOTED_LINES:]]
    )
    check = Check(
        id="no-report",
        name="NoReport",
        description="The scenario leaves a report",
        status="FAILURE",
        errorMessage=f"the suite left no report; it said:\n{said}",
    )
    return Scenario(name, (check,))
