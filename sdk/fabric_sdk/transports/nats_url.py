"""Where a NATS URL leads, and as whom: what a person wrote is checked whole before anything connects.

Above: `nats`. Below: URLs, and the `.creds` file that one may name. It never shows a password.
"""

from __future__ import annotations

import importlib.util
import re
import stat
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from fabric_sdk.contracts.errors import ConfigurationError

_WEBSOCKETS: Final = frozenset(("ws", "wss"))
_SCHEMES: Final = _WEBSOCKETS | {"nats", "tls"}


def servers_in(url: str) -> list[str]:
    """The servers in `url`.

    Raises:
        ConfigurationError: there is none, or one that no server can have.
    """
    servers = [part.strip() for part in url.split(",") if part.strip()]
    schemes: set[str] = set()
    for server in servers:
        try:
            parts = urlsplit(server)
            schemes.add(parts.scheme)
            usable = parts.scheme in _SCHEMES and bool(re.fullmatch(r"\S+", parts.hostname or "")) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            # All of it: what a comma within a password cut off would be shown.
            raise ConfigurationError(f"{shown(url)!r} is no NATS URL", fix="write nats://host:port")
    if not servers:
        raise ConfigurationError("the NATS URL is empty", fix="write nats://host:port")
    if schemes & _WEBSOCKETS and schemes - _WEBSOCKETS:
        raise ConfigurationError("the NATS URL mixes ws:// and nats://", fix="use one of them for all servers")
    return servers


def user_in(servers: list[str]) -> dict[str, str]:
    """What a URL says of the user, as nats-py's options: it has to hold for all servers of the cluster.

    nats-py takes it from the server's own URL, and so would come without it to those servers that the cluster told of:
    as nobody, or where that is allowed, as somebody else.

    Raises:
        ConfigurationError: the servers are given different ones.
    """
    stated = {(parts.username, parts.password) for parts in map(urlsplit, servers) if parts.username is not None}
    if len(stated) > 1:
        raise ConfigurationError(
            "the NATS URL names more than one user", fix="name one that all servers of the cluster know"
        )
    for username, password in stated:
        if password is None:
            return {"token": unquote(username)}
        return {"user": unquote(username), "password": unquote(password)}
    return {}


def bare(server: str) -> str:
    """The URL of a server without the user."""
    parts = urlsplit(server)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def checked_credentials(path: str) -> str:
    """`path`, if it is a NATS `.creds` file: nats-py would look for its parts for ever.

    Raises:
        ConfigurationError: it is none, it cannot be read, or what reads it is not installed.
    """
    fix = "name the .creds file of a NATS user"
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for, and be empty the second time
            raise ConfigurationError(f"{path} is no file", fix=fix)
        content = Path(path).read_bytes()
    except OSError as unreadable:
        raise ConfigurationError(f"{path} cannot be read: {unreadable.strerror}", fix=fix) from None
    if b"BEGIN NATS USER JWT" not in content or b"BEGIN USER NKEY SEED" not in content:
        raise ConfigurationError(f"{path} holds no NATS credentials", fix=fix)
    if importlib.util.find_spec("nkeys") is None:
        raise ConfigurationError("a .creds file needs the package nkeys", fix="pip install 'nats-py[nkeys]'")
    return path


def shown(url: str) -> str:
    """A URL, or what was meant to be one, without its password."""
    return re.sub(r"^([a-z]+://)?.*@", r"\1", url)
