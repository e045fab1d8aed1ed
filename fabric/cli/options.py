"""Options that several commands share.

Above: the commands. Below: typer. `--data` takes no default from the environment here: typed, it says which fabric is
meant; `FABRIC_DATA` only where to look when nothing else says so (`connection`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.task import Priority

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="The fabric's data folder. [FABRIC_DATA, else agent-fabric in your state folder]",
        file_okay=True,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The configuration. [FABRIC_CONFIG, ./fabric.toml, else fabric.toml in your config folder]"
    ),
]
OfAgentOption = Annotated[str | None, typer.Option("--agent", help="Only this agent's, or @CAPABILITY's.")]
PriorityOption = Annotated[Priority, typer.Option("--priority", help="How soon, where others wait too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.", min=0.001)]


def label_pairs(typed: list[str]) -> dict[str, str]:
    """Labels as they are typed: `team=search`.

    Raises:
        ConfigurationError: one is none.
    """
    found: dict[str, str] = {}
    for pair in typed:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ConfigurationError(f"{pair!r} is no label", fix="write NAME=VALUE, as in team=search")
        found[name] = value
    return found
