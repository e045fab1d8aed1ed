"""What happens to processes, said in one line each.

Above: `up`, `worker`. Below: the supervisor's events, and the terminal.
"""

from __future__ import annotations

from rich.markup import escape

from fabric.cli.console import err
from fabric.process import Exited, ProcessEvent, Ready, Restarting, Stopped, Unhealthy


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
