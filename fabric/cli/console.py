"""How the command line speaks: tables and progress for people, JSON for scripts, and what exit codes mean.

Above: every command. Below: rich. A user's mistake is one line that says what to do next, never a traceback.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fabric_sdk.contracts import errors

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

T = TypeVar("T")


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    FAILED = 1
    """What was asked for did not work."""
    USAGE = 2
    """The question was wrong: options, configuration, names."""
    UNAVAILABLE = 3
    """The fabric, an agent or a broker is not there."""
    TOOL_ERROR = 4
    """The tool reported an error, or that the arguments do not suit it."""
    DEADLINE = 5
    """No answer came in time."""


_BY_ERROR: tuple[tuple[type[errors.FabricError], Exit], ...] = (
    (errors.ToolError, Exit.TOOL_ERROR),
    (errors.DeadlineExceeded, Exit.DEADLINE),
    (errors.TransportUnavailable, Exit.UNAVAILABLE),
    (errors.AgentUnavailable, Exit.UNAVAILABLE),
    (errors.Overloaded, Exit.UNAVAILABLE),
    (errors.ConfigurationError, Exit.USAGE),
    (errors.UnknownAgent, Exit.USAGE),
    (errors.UnknownName, Exit.USAGE),
    (errors.InvalidParams, Exit.USAGE),
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; an error of the fabric's becomes one line and an exit code."""
    try:
        return uvloop.run(work)
    except errors.FabricError as failure:
        fail(failure)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    except OSError as failure:  # a file or folder that a person named
        what = failure.strerror or str(failure) or type(failure).__name__
        fail(errors.FabricError(f"{failure.filename}: {what}" if failure.filename else what))


def fail(failure: errors.FabricError) -> NoReturn:
    """Say what is wrong and how to mend it, and end."""
    err.print(f"[bold red]error:[/] {escape(failure.message)}", soft_wrap=True)
    if failure.fix:
        err.print(f"  [dim]fix:[/] {escape(failure.fix)}", soft_wrap=True)
    code = next((code for kind, code in _BY_ERROR if isinstance(failure, kind)), Exit.FAILED)
    raise typer.Exit(int(code)) from None


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; numbers stand to the right."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[at], (int, float)) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    out.print(grid)
