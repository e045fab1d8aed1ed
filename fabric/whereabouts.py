"""How to reach a running fabric, and the file in its data folder that says so while it runs.

Above: `node`, which writes it, and the commands, which read it. Below: the file system.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fabric.embedded.folder import DataFolder, default_path, owner_of
from fabric.settings import load_settings

_FILE: Final = "fabric.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """How to reach a running fabric. Holds secrets: its file has mode 0600."""

    mcp_url: str
    nats_url: str
    redis_url: str
    token: str | None
    pid: int
    pids: dict[str, int]
    """Process id by process name."""
    metrics_url: str = ""
    """What Prometheus scrapes."""

    def to_json(self) -> str:
        """As scripts read it, from the data folder or a ready file."""
        return json.dumps(asdict(self))

    def publish(self, folder: DataFolder) -> None:
        """Leave it in the data folder."""
        folder.write(_FILE, self.to_json())

    @staticmethod
    def withdraw(folder: DataFolder) -> None:
        """Take it back."""
        (folder.path / _FILE).unlink(missing_ok=True)

    @staticmethod
    def of(data: Path | None) -> Whereabouts | None:
        """Those of the fabric that runs on a data folder, if one does: by default that of the settings."""
        folder = data or usual_folder()
        try:
            found = Whereabouts(**json.loads((folder / _FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if owner_of(folder) == (found.pid, True) else None


def usual_folder() -> Path:
    """The data folder where none is named on a command line: that of the settings, else the user's."""
    return load_settings().data or default_path()
