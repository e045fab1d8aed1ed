"""What commands that supervise processes have in common: what happens is said in one line each.

Above: `up`, `worker`, `gateway`, `backup`. Below: the supervisor's events, live settings, and the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from fabric import logs
from fabric.cli.console import err
from fabric.cli.variables import warn_of_variables
from fabric.live import Change, LiveSettings
from fabric.named_files import check
from fabric.process import Exited, ProcessEvent, Ready, Restarting, Stopped, Unhealthy


def supervised(config: Path | None, given: Mapping[str, Any]) -> LiveSettings:
    """The settings of a command that supervises processes; those that are typed come first.

    What happens to processes is told by the supervisor; of the rest, warnings are enough unless asked for more.

    Raises:
        ConfigurationError: something is wrong with them.
    """
    live = LiveSettings(config, given, defaults={"log_level": "warning"}, check=check)
    logs.configure(live.settings)
    warn_of_variables()
    live.listen(_show_change)
    return live


def _show_change(change: Change) -> None:
    if change.applied:
        err.print(f"[cyan]changed[/]  {escape(', '.join(change.applied))}", soft_wrap=True)


class Shown:
    """Prints what a person wants to know of events. Of a process that was never ready, whoever started it tells."""

    def __init__(self) -> None:
        self._were_ready: set[str] = set()

    def __call__(self, event: ProcessEvent) -> None:
        if isinstance(event, Ready):
            self._were_ready.add(event.name)
        if event.name in self._were_ready:
            _show(event)
        if isinstance(event, Stopped):
            self._were_ready.discard(event.name)


def _show(event: ProcessEvent) -> None:
    match event:
        case Ready(name=name, pid=pid, seconds=seconds):
            err.print(f"[green]ready[/]    {escape(name)} [dim]pid {pid}, {seconds:.1f} s[/]")
        case Exited(name=name, reason=reason, code=code) if code != 0:
            err.print(f"[yellow]ended[/]    {escape(name)}: {escape(reason)}", soft_wrap=True)
        case Restarting(name=name, seconds=seconds):
            err.print(f"[yellow]restart[/]  {escape(name)} in {seconds:.1f} s")
        case Unhealthy(name=name, reason=reason):
            err.print(f"[red]unwell[/]   {escape(name)}: {escape(reason)}", soft_wrap=True)
        case _:
            pass
