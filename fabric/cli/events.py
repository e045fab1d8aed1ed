"""What happens to processes, said in one line each."""

from __future__ import annotations

from rich.markup import escape

from fabric.cli.console import err
from fabric.process import Exited, ProcessEvent, Ready, Restarting, Unhealthy


def show(event: ProcessEvent) -> None:
    """Print what a person wants to know of an event."""
    match event:
        case Ready(name=name, pid=pid, seconds=seconds):
            err.print(f"[green]ready[/]    {escape(name)} [dim]pid {pid}, {seconds:.1f} s[/]")
        case Exited(name=name, reason=reason, code=code) if code != 0:
            err.print(f"[yellow]ended[/]    {escape(name)}: {escape(reason)}")
        case Restarting(name=name, seconds=seconds):
            err.print(f"[yellow]restart[/]  {escape(name)} in {seconds:.1f} s")
        case Unhealthy(name=name, reason=reason):
            err.print(f"[red]unwell[/]   {escape(name)}: {escape(reason)}")
        case _:
            pass
