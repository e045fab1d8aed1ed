"""`fabric env`: what scripts need in their environment to reach the running fabric: `eval "$(fabric env)"`.

Above: `main`; `variables`, for the names. Below: `connection`. It prints secrets, for the shell of whoever may read the
data folder.
"""

from __future__ import annotations

import shlex
from typing import Final

from fabric.cli.connection import here, nats_url
from fabric.cli.console import out, print_json, run
from fabric.cli.options import DataOption, JsonOption

SHOWN: Final = ("FABRIC_NATS_URL", "FABRIC_MCP_URL", "FABRIC_TOKEN")


def env(json_output: JsonOption = False, data: DataOption = None) -> None:
    """Print how scripts reach the running fabric, for a shell: `eval "$(fabric env)"`."""

    async def found() -> dict[str, str]:
        bus, known = nats_url(data), here(data)
        values = (bus, known and known.mcp_url, known and known.token)
        return {name: value for name, value in zip(SHOWN, values, strict=True) if value}

    variables = run(found())
    if json_output:
        print_json(variables)
        return
    for name, value in variables.items():
        out.print(f"export {name}={shlex.quote(value)}", markup=False, soft_wrap=True)
