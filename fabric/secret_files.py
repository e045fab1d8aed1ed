"""Secrets from files: `FABRIC_<NAME>_FILE` names the file that holds what `FABRIC_<NAME>` would say.

Above: whatever starts a process of the platform. Below: the environment and the file system. What a container is given
in its environment, others can see (`docker inspect`, a pod's description); of a file they see the name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fabric.settings import PREFIX
from fabric_sdk.contracts.errors import ConfigurationError

_FILE: Final = "_FILE"
SECRETS: Final = ("TOKEN", "NATS_URL", "NATS_SYSTEM_URL", "REDIS_URL")
VARIABLES: Final = tuple(f"{PREFIX}{name}{_FILE}" for name in SECRETS)


def read_secret_files() -> None:
    """Put into the environment what the named files hold.

    Raises:
        ConfigurationError: a file cannot be read or is empty, or the variable itself is set, too.
    """
    for variable in VARIABLES:
        if path := os.environ.get(variable):
            name = variable.removesuffix(_FILE)
            if os.environ.get(name):
                raise ConfigurationError(f"both {name} and {variable} are set", fix="set one of them")
            os.environ[name] = _secret(variable, Path(path))
            del os.environ[variable]  # or a child of this process would find both


def _secret(variable: str, path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as unreadable:
        why = unreadable.strerror if isinstance(unreadable, OSError) else "it is no text"
        raise ConfigurationError(f"{variable}: {path} cannot be read: {why}", fix="check path and mode") from None
    if not secret:
        raise ConfigurationError(f"{variable}: {path} is empty", fix="write the secret into it")
    return secret
