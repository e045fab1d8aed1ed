"""The files that make a fabric what it is: its token, its configuration, and the policy and limits which that names.

Above: the command. Below: archives, settings. What stands below the folder of `fabric.toml` keeps its place there, so
that the file finds it wherever all of it is laid out. Secret files are not in it: they belong to whoever mounts them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fabric.backup.archive import Archive
from fabric.files import read_whole
from fabric.settings import Configuration
from fabric.settings.loading import MOST_BYTES
from fabric.settings.places import NAME
from fabric_sdk.contracts.errors import ConfigurationError

TOKEN: Final = "token"
"""The operator's, made by a private fabric for itself."""


class WouldOverwrite(ConfigurationError):
    """There is a file already, and it says something else."""


def files_of(configuration: Configuration, folder: Path) -> Mapping[str, bytes]:
    """What is to be saved, by its name in the archive; `folder` is that of the fabric's data.

    Raises:
        OSError: one that is named cannot be read.
    """
    settings, found = configuration.settings, dict[str, bytes]()
    own = folder / TOKEN
    if settings.token is None and own.is_file():
        found[TOKEN] = read_whole(own, MOST_BYTES)
    if configuration.file is not None:
        found[NAME] = read_whole(configuration.file, MOST_BYTES)
    for kind, path in (("policy", settings.policy), ("limits", settings.limits)):
        if path is not None:
            files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
            found |= {_name(kind, file, configuration.file): read_whole(file, MOST_BYTES) for file in files}
    return found


def _name(kind: str, file: Path, configuration: Path | None) -> str:
    if configuration is not None:
        place, home = Path(os.path.normpath(file.absolute())), configuration.absolute().parent
        if place.is_relative_to(home):
            return place.relative_to(home).as_posix()
    return f"{kind}/{file.name}"


def refuse_to_overwrite(archive: Archive, folder: Path) -> None:
    """Look, before anything is done, whether `lay_out` may.

    Raises:
        WouldOverwrite: there is a file that says something else.
        ConfigurationError: the archive names a file outside.
    """
    for name in archive.manifest.configuration:
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ConfigurationError(f"the backup names a file outside: {name}", fix="restore without --configuration")
        there = next(path for path in (target, *target.parents) if path.exists())
        same = there == target and there.is_file() and there.read_bytes() == archive.configuration(name)
        if not same and (there == target or not there.is_dir()):
            raise WouldOverwrite(
                f"{there} is there already, and is not what was saved", fix="lay it out into an empty folder"
            )


def lay_out(archive: Archive, folder: Path) -> None:
    """Put every file that was saved into `folder`, for this user alone; those that are there already stay.

    Raises:
        FileExistsError: one has come since `refuse_to_overwrite` looked.
    """
    for name in archive.manifest.configuration:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(archive.configuration(name))
