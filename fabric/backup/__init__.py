"""A fabric's data as one file, and back: what every stream holds, where every consumer stands, and the configuration.

Above: `fabric backup`, `fabric restore`. Below: the SDK's JetStream. Redis is not in it: all it holds comes back from
NATS by itself (ADR 17).

    manifest   what an archive says of itself     saving     a running fabric becomes an archive
    archive    the file                           restoring  an archive becomes a fabric
    configuration   the files beside the streams  settling   tasks that moved while the backup was made
"""

from __future__ import annotations

from fabric.backup.archive import Archive, Draft, open_archive, write_archive
from fabric.backup.manifest import Damaged, Manifest
from fabric.backup.restoring import NotEmpty, StillRunning, restore
from fabric.backup.saving import Step, save

__all__ = [
    "Archive",
    "Damaged",
    "Draft",
    "Manifest",
    "NotEmpty",
    "Step",
    "StillRunning",
    "open_archive",
    "restore",
    "save",
    "write_archive",
]
