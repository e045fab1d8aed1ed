"""How the command line speaks: tables and progress for people, JSON for scripts, and what exit codes mean.

Above: every command. Below: rich. A user's mistake is one line that says what to do next, never a traceback.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence
from enum import IntEnum
from typing import Any, Final, NoReturn, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fabric.settings import BAD_USAGE
from fabric.unseen import seen, seen_in_json
from fabric_sdk.contracts import errors

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

T = TypeVar("T")

_LONG: Final = 400
"""Characters of JSON that a person still reads; `--json` has all."""
_UNFOLDED: Final = 100_000
"""Columns for whoever is no terminal and names no width: a program that looks for lines, and needs each row on one."""


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    FAILED = 1
    """What was asked for did not work."""
    USAGE = BAD_USAGE
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
    (errors.UnknownTask, Exit.USAGE),
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
    message, fix = (seen(text or "", but="\n") for text in (failure.message, failure.fix))
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    if fix:
        err.print(f"  [dim]fix:[/] {escape(fix)}", soft_wrap=True)
    code = next((code for kind, code in _BY_ERROR if isinstance(failure, kind)), Exit.FAILED)
    raise typer.Exit(int(code)) from None


def warn(message: str) -> None:
    """Say what may be wrong, and go on."""
    err.print(f"[yellow]warning:[/] {escape(seen(message))}", soft_wrap=True)


def print_json(value: Any, *, line: bool = False) -> None:
    """One JSON document on standard output; `line`: on one line, and at once."""
    document = json.dumps(value, indent=None if line else 2, ensure_ascii=False)
    sys.stdout.write(seen_in_json(document) + "\n")
    if line:
        sys.stdout.flush()


def facts(said: Sequence[tuple[str, object]]) -> None:
    """What is known of one thing: a name and a value on each line; those without a value are left out."""
    known = [(name, value) for name, value in said if value not in (None, "")]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        out.print(f"[bold]{name:{width}}[/]  {escape(seen(str(value)))}", soft_wrap=True)


def brief_json(value: Any) -> str | None:
    """JSON on one line, cut off where it is long; nothing for null."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else text[:_LONG] + "…"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = ("ID",), to: Console = out
) -> None:
    """A table; numbers stand to the right, and the columns that are copied or looked through stay whole."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[at], (int, float)) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=column in whole)
    for row in rows:
        grid.add_row(*(escape(seen(str(cell))) for cell in row))
    if not to.is_terminal and "COLUMNS" not in os.environ:
        to = Console(file=to.file, width=_UNFOLDED, highlight=False)
    to.print(grid)
