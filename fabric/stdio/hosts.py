"""What the common hosts want to read in order to start `fabric mcp`.

Above: `fabric mcp --config`. Below: nothing. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

HostName = Literal["claude", "claude-code", "cursor", "vscode", "windsurf", "codex", "gemini", "zed"]

NAME: Final = "fabric"
"""What the host calls us."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a host starts us."""

    program: str
    """An absolute path: hosts that are no shells have another PATH."""
    arguments: Sequence[str]
    env: Mapping[str, str]

    def entry(self) -> dict[str, Any]:
        """As most hosts write it."""
        entry: dict[str, Any] = {"command": self.program, "args": list(self.arguments)}
        return entry | ({"env": dict(self.env)} if self.env else {})


@dataclass(frozen=True, slots=True)
class HostFile:
    """Where a host reads of the programs it starts, and how it wants that written."""

    path: str
    write: Callable[[Command], str]


def _json(member: str, **more: str) -> Callable[[Command], str]:
    """JSON that has programs in this member; `more` is said of each."""
    return lambda command: json.dumps({member: {NAME: more | command.entry()}}, indent=2, ensure_ascii=False)


def _toml(command: Command) -> str:
    """A table of Codex. A basic string of TOML takes all escapes of JSON, but for halves of characters."""
    lines = [f"[mcp_servers.{NAME}]"]
    lines += [f"{name} = {_toml_value(value)}" for name, value in command.entry().items() if name != "env"]
    if command.env:
        lines += ["", f"[mcp_servers.{NAME}.env]"]
        lines += [f"{name} = {_toml_value(value)}" for name, value in command.env.items()]
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_USUAL: Final = _json("mcpServers")

HOSTS: Final[Mapping[HostName, HostFile]] = {
    "claude": HostFile("claude_desktop_config.json (Settings, Developer, Edit Config)", _USUAL),
    "claude-code": HostFile(".mcp.json in the project", _USUAL),
    "cursor": HostFile("~/.cursor/mcp.json", _USUAL),
    "vscode": HostFile(".vscode/mcp.json in the project", _json("servers", type="stdio")),
    "windsurf": HostFile("~/.codeium/windsurf/mcp_config.json", _USUAL),
    "codex": HostFile("~/.codex/config.toml", _toml),
    "gemini": HostFile("~/.gemini/settings.json", _USUAL),
    "zed": HostFile("~/.config/zed/settings.json", _json("context_servers")),
}
"""By the name that `--config` takes."""
