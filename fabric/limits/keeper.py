"""Keeps the limits that hold: read at the start, read again whenever their file changes.

Above: the gateway. Below: `rules`, `fabric.watching`. What was used stays used, as far as the limits are the same.
"""

from __future__ import annotations

from pathlib import Path

from fabric.limits.rules import Limits, parse, source
from fabric.watching import Followed


class LimitsKeeper(Followed[tuple[str, str], Limits]):
    """The limits of `FABRIC_LIMITS`."""

    def __init__(self, path: Path | None = None) -> None:
        """Read them: a file, or what comes with the fabric.

        Raises:
            LimitsError: they cannot be read, or something in them is wrong.
        """
        super().__init__("limits", path, read=source, parse=lambda text: parse(*text))
