"""The agent `linter`: what ruff finds in a source file.

    fabric worker examples/review/linter.py --processes 2

Above: clients. Below: the agent `reader`, which has the source, and ruff, one process for each file.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reviewing import Reviewer, source_of

from fabric_sdk import Agent, Context, ToolError

agent = Agent("linter", version="1.0.0", description="Finds likely mistakes in Python sources.")

RULES: Final = ("F", "E7", "E9", "W6", "B", "PLE", "PLW")
"""Likely mistakes, not matters of taste."""

_RUFF: Final = (
    str(Path(sys.executable).with_name("ruff")),
    "check",
    "--isolated",  # these rules and no others, whatever the tree's own configuration says
    "--no-cache",
    "--output-format=json",
    f"--select={','.join(RULES)}",
    "--ignore=F405",  # once for each name that a star import may have brought; F403 names the import itself
    f"--target-version=py{sys.version_info.major}{sys.version_info.minor}",
)


@dataclass
class Finding:
    """One thing that ruff says."""

    rule: str
    line: int
    message: str


@dataclass
class Lint:
    """All that ruff says of a file."""

    path: str
    findings: list[Finding]
    reviewer: Reviewer


@agent.tool(annotations={"readOnlyHint": True})
async def lint(path: str, ctx: Context) -> Lint:
    """Lint one source file; `path` as `reader` lists it."""
    said = await _ruff(path, await source_of(path, ctx))
    findings = [Finding(each["code"] or "invalid-syntax", each["location"]["row"], each["message"]) for each in said]
    return Lint(path, findings, Reviewer.of(ctx))


async def _ruff(path: str, source: str) -> list[dict[str, Any]]:
    """What ruff says of a text, as its JSON."""
    ruff = await asyncio.create_subprocess_exec(
        *_RUFF, f"--stdin-filename={path}", "-", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        out, err = await ruff.communicate(source.encode())
    finally:
        if ruff.returncode is None:  # the deadline passed, or the caller gave up
            ruff.kill()
    if ruff.returncode not in (0, 1):  # 1: there are findings
        raise ToolError(f"ruff could not lint {path}: {err.decode(errors='replace').strip()}")
    return json.loads(out)
