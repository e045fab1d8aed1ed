"""Runs the public MCP conformance suite against a URL and reads what it found."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clients import node
from pydantic import BaseModel, Field, TypeAdapter

SUITE_SECONDS = 170
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
    def skipped(self) -> bool:
        """Whether the suite itself has nothing to check here."""
        return all(check.status == "SKIPPED" for check in self.checks)

    @property
    def passed(self) -> bool:
        """True when nothing is wrong and something was really checked."""
        return not self.wrong and any(check.status == "SUCCESS" for check in self.checks)


def run(url: str, choice: Sequence[str]) -> dict[str, Scenario]:
    """Runs the scenarios of a leg in one process; returns what each that began found, in that order.

    A scenario that leaves no report (crashed, too slow) comes back with one failed check that quotes the suite's own
    words. Raises `clients.node.NodeMissing` when the suite is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        output = _suite(Path(name), url, choice)
        found = _read(Path(name))
    started = re.findall(r"^=== Running scenario: (\S+) ===$", output, flags=re.MULTILINE)
    if not started:
        raise RuntimeError(f"The conformance suite ran nothing:\n{output}")
    return {name: found.get(name) or _no_report(name, output) for name in started}


def _suite(folder: Path, url: str, choice: Sequence[str]) -> str:
    """Runs the suite once and returns all it printed. Its exit code says nothing that the reports do not say."""
    program = node.program("@modelcontextprotocol/conformance", "conformance")
    command = [node.node(), program, "server", "--url", url, "--output-dir", folder, *choice]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SUITE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        return f"{printed}\n(stopped: not finished within {SUITE_SECONDS} s)"
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
