"""The passwords of the private servers: made once per data folder, the same after every restart.

Above: the two servers. Below: `folder`. It refuses to know the servers' formats.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, fields
from typing import Any

from fabric.embedded.errors import DataFolderError
from fabric.embedded.folder import DataFolder

_FILE = "credentials.json"
_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Made of letters, digits, `-` and `_` only, so they stand in a URL and in a quoted string as they are."""

    nats: str
    nats_system: str
    valkey: str


def load_credentials(folder: DataFolder) -> Credentials:
    """Those of this folder, made if there are none. Raises DataFolderError if their file is damaged."""
    names = [field.name for field in fields(Credentials)]
    text = folder.read(_FILE)
    if text is None:
        made = {name: secrets.token_urlsafe(_BYTES) for name in names}
        folder.write(_FILE, json.dumps(made))
        return Credentials(**made)
    (folder.path / _FILE).chmod(0o600)  # a copy from elsewhere may have come with wider rights
    try:
        kept: dict[str, Any] = json.loads(text)
        return Credentials(**{name: str(kept[name]) for name in names})
    except (ValueError, KeyError, TypeError):
        raise DataFolderError(
            f"{folder.path / _FILE} is damaged", fix="remove it: new passwords are made at the next start"
        ) from None
