"""Which file holds the configuration: the one that is named, else the first of those that are usual.

Above: `loading`, `layers`, `passing`; `fabric.live`, `fabric.backup`, the command line. Below: the file system and the
environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import platformdirs

from fabric_sdk.contracts.errors import ConfigurationError

CONFIG: Final = "FABRIC_CONFIG"
ENVIRONMENT: Final = "FABRIC_ENV"
"""Names the table `[env.NAME]` that is laid over the file."""
NAME: Final = "fabric.toml"

_APP: Final = "agent-fabric"


def find(named: Path | None = None) -> Path | None:
    """The file: `named` on a command line, `FABRIC_CONFIG`, `./fabric.toml`, that of the user; none if there is none.

    Raises:
        ConfigurationError: the one that is named is not there.
    """
    if named is None and (variable := os.environ.get(CONFIG)):
        named = Path(variable)
    if named is None:
        return next((path for path in usual() if path.is_file()), None)
    if not named.exists() or named.is_dir():
        raise ConfigurationError(f"{named}: there is no such file", fix=f"check --config, or {CONFIG}")
    return named.absolute()


def usual() -> tuple[Path, ...]:
    """Where it is looked for."""
    return Path.cwd() / NAME, platformdirs.user_config_path(_APP, appauthor=False) / NAME
