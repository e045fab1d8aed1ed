"""What can go wrong for the person who starts or names a server; each error says what to do next.

Above: everything in `fabric.embedded`. Below: the fabric's root error. No error carries a password.
"""

from __future__ import annotations

from fabric_sdk.contracts.errors import ConfigurationError


class DataFolderError(ConfigurationError):
    """The data folder cannot be used."""


class DataFolderInUse(DataFolderError):
    """Another process uses the data folder."""

    def __init__(self, message: str, *, pid: int | None, fix: str) -> None:
        """`pid` is the process that holds the folder, where it is known."""
        super().__init__(message, fix=fix)
        self.pid = pid


class BinaryMissing(ConfigurationError):
    """A server's program is not installed."""


class ServerUnusable(ConfigurationError):
    """The server at this address cannot be used."""


class NothingListens(ServerUnusable):
    """Nothing listens at this address; it may only not be up yet."""


class WrongProtocol(ServerUnusable):
    """Something else than the expected server answers at this address."""


class AccessDenied(ServerUnusable):
    """The server wants a password, or another one."""


class TooOld(ServerUnusable):
    """The server is too old."""
