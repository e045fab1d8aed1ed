"""The `fabric` command inside the test's own process: what it prints and how it ends, without the second that a start
of Python costs. Signals, pipes and terminals are for `command.fabric`."""

from __future__ import annotations

import os
from pathlib import Path

from typer.testing import CliRunner

from cli.command import Done
from fabric.cli.main import app


def fabric_inside(*arguments: str | Path, env: dict[str, str], text: str = "") -> Done:
    """Run `fabric` with these arguments to its end, with `text` as its standard input."""
    bare: dict[str, str | None] = {name: None for name in os.environ if name.startswith("FABRIC_")}
    bare |= {"XDG_STATE_HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull, **env}
    done = CliRunner().invoke(app, [str(each) for each in arguments], env=bare, input=text)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)
