"""How a supervisor hands settings to the processes that it starts, and what else it tells them in their environment.

Above: `node`, `fabric worker`, `fabric gateway`. Below: the model. What is fixed goes into their environment, so that a
process that is started again later has what the others have. What changes live goes into a file that they follow, and
that the supervisor writes when it has taken a change: none of them ever reads one that was refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from fabric.files import put
from fabric.settings.keys import POOLS, is_live, is_secret, variable
from fabric.settings.model import Settings
from fabric.settings.places import CONFIG, ENVIRONMENT

PROCESS: Final = "FABRIC_PROCESS"
"""What the supervisor calls the process."""
RUN: Final = "FABRIC_RUN"
"""The folder in which its processes say where they answer."""
LISTEN_FD: Final = "FABRIC_LISTEN_FD"
"""The descriptors of sockets that listen already, for a gateway."""
HANDED: Final = (PROCESS, RUN, LISTEN_FD)

_FILE: Final = "live.toml"


def fixed(settings: Settings, *, secrets: bool) -> dict[str, str]:
    """What was said of settings that do not change, as environment variables; the secrets too, or without them."""
    names = settings.model_fields_set - {POOLS}
    kept = [name for name in Settings.model_fields if name in names and not is_live(name)]
    return {variable(name): _as_text(getattr(settings, name)) for name in kept if secrets or not is_secret(name)}


class LiveFile:
    """What changes live, for other processes to follow."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._path = folder / _FILE
        self.write(settings)

    @property
    def env(self) -> dict[str, str]:
        """What makes a process follow it, and nothing else."""
        return {CONFIG: str(self._path), ENVIRONMENT: ""}

    def write(self, settings: Settings) -> None:
        """Put it in the old one's place, whole."""
        values = settings.model_dump(mode="json", include={name for name in Settings.model_fields if is_live(name)})
        # What JSON writes of a text, a number or a list of them is TOML, too.
        put(self._path, "".join(f"{name} = {_as_toml(value)}\n" for name, value in values.items() if value is not None))


def _as_toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType]
