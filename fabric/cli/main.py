"""The `fabric` command: one file for each subcommand, imported when it is asked for.

Above: the `fabric` script. Below: the commands. All of them and their libraries together take longer to import than
most of them to run.
"""

from __future__ import annotations

import sys

try:
    from collections.abc import Generator
    from contextlib import contextmanager
    from importlib import import_module
    from typing import Any, Final, cast

    import typer
    from typer.core import TyperGroup
    from typer.main import get_group
except KeyboardInterrupt:  # whoever changes their mind this early wants no traceback
    sys.exit(130)

_COMMANDS: Final = {
    "up": "up:up",
    "worker": "worker:worker",
    "gateway": "gateway:gateway",
    "registry": "services:registry",
    "platform": "services:platform",
    "mcp": "mcp:mcp",
    "call": "call:call",
    "read": "offers:read",
    "prompt": "offers:prompt",
    "ps": "ps:ps",
    "tools": "ps:tools",
    "top": "top:top",
    "task": "task:app",
    "dead": "dead:app",
    "schedule": "schedule:app",
    "events": "events:app",
    "conversation": "conversation:app",
    "token": "token:app",
    "config": "config:app",
    "policy": "policy:app",
    "approvals": "approvals:app",
    "audit": "audit:app",
    "mount": "mounts:mount",
    "unmount": "mounts:unmount",
    "mounts": "mounts:mounts",
    "trace": "trace:trace",
    "env": "environment:env",
    "doctor": "doctor:doctor",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "bench": "bench:bench",
}
"""Each subcommand's file in this folder, and what it is there: a function, or an app with commands of its own."""


_USAGE: Final = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
"""What all errors of usage are. It is click's own, of which typer hands out this one kind alone."""
_HELP: Final = "NoArgsIsHelpError"
"""The kind that is none: the help, where nothing was typed."""


@contextmanager
def _usage_told(around: Any = None) -> Generator[None]:
    """What was typed wrong is told as all else is: an error, and a fix; `around`: the group's context, if known."""
    try:
        yield
    except _USAGE as wrong:
        if type(wrong).__name__ == _HELP:
            raise
        from fabric.cli.console import fail
        from fabric_sdk.contracts.errors import InvalidParams

        said = wrong.format_message().replace("Value error, ", "", 1)  # of a choice, typer says how it found out
        context = cast("Any", wrong.ctx)
        if context is None:  # of an option without its value, typer does not say where it is
            command = f"fabric {around.invoked_subcommand}" if around else "fabric"
            fix = f"`{command} --help` lists the options and what they take"
        else:
            usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
            fix = f"write `{usage}`; `{context.command_path} --help` says more"
        fail(InvalidParams(said[0].lower() + said[1:].rstrip("."), fix=fix))


class _Lazily(TyperGroup):
    """Imports what is asked for; all of it for the list, and for who mistyped a name."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        with _usage_told():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        with _usage_told(ctx):
            return super().invoke(ctx)

    def list_commands(self, ctx: object) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.commands[name] = _loaded(name)
        return self.commands.get(cmd_name)


def _loaded(name: str) -> Any:
    file, _, attribute = _COMMANDS[name].partition(":")
    found = getattr(import_module(f"fabric.cli.{file}"), attribute)
    around = typer.Typer()
    if isinstance(found, typer.Typer):
        around.add_typer(found)
    else:
        around.command(name)(found)
    return get_group(around).commands[name]


def _shared() -> None:
    """There are no options before the subcommand."""


app = typer.Typer(
    name="fabric",
    cls=_Lazily,
    callback=_shared,
    help="A messaging fabric for AI agents: MCP servers as pools of workers that survive any crash.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point of the `fabric` script."""
    app()
