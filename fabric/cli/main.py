"""The `fabric` command: one file for each subcommand, put together here.

Above: the `fabric` script. Below: the commands.
"""

from __future__ import annotations

import sys

try:
    import typer

    from fabric.cli import (
        approvals,
        audit,
        bench,
        call,
        conversation,
        dead,
        doctor,
        environment,
        events,
        gateway,
        mcp,
        mounts,
        offers,
        policy,
        ps,
        schedule,
        task,
        token,
        up,
        worker,
    )
except KeyboardInterrupt:  # whoever changes their mind this early wants no traceback
    sys.exit(130)

app = typer.Typer(
    name="fabric",
    help="A messaging fabric for AI agents: MCP servers as pools of workers that survive any crash.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(worker.worker)
app.command()(gateway.gateway)
app.command()(mcp.mcp)
app.command()(call.call)
app.command()(offers.read)
app.command()(offers.prompt)
app.command()(ps.ps)
app.command()(ps.tools)
app.add_typer(task.app)
app.add_typer(dead.app)
app.add_typer(schedule.app)
app.add_typer(events.app)
app.add_typer(conversation.app)
app.add_typer(token.app)
app.add_typer(policy.app)
app.add_typer(approvals.app)
app.add_typer(audit.app)
app.command()(mounts.mount)
app.command()(mounts.unmount)
app.command()(mounts.mounts)
app.command()(environment.env)
app.command()(doctor.doctor)
app.command()(bench.bench)


def main() -> None:
    """The entry point of the `fabric` script."""
    app()
