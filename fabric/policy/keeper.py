"""Keeps the policy that holds: read at the start, read again whenever its files change.

Above: the gateway, the platform's agents. Below: `files`, `fabric.watching`. A good policy takes the old one's place
between two decisions; a bad one takes nobody's, and is told in the log.
"""

from __future__ import annotations

from pathlib import Path

from fabric.policy.decisions import Policy
from fabric.policy.files import DEFAULT, parse
from fabric.policy.pages import Source, read
from fabric.watching import Followed


class PolicyKeeper(Followed[tuple[Source, ...], Policy]):
    """The policy of `FABRIC_POLICY`."""

    def __init__(self, path: Path | None = None) -> None:
        """Read it: a file, a folder of `*.yaml`, or the built-in policy.

        Raises:
            ConfigurationError: it cannot be read, or something is wrong with it.
        """
        super().__init__("policy", path, read=lambda path: read(path or DEFAULT), parse=parse)
