"""Tells whether a NATS or Redis server that somebody named can be used, and if not, what is there instead.

Above: the command line, before it starts anything that needs the server; the private servers, for their versions.
Below: `wire`. It refuses to know what the server is used for. All errors are ServerUnusable; none shows a password.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from fabric.embedded.errors import AccessDenied, NothingListens, ServerUnusable, TooOld, WrongProtocol
from fabric.embedded.wire import Connection, RedisRefusal, UnexpectedReply
from fabric.settings.model import NATS_SCHEMES, REDIS_SCHEMES

_PATIENCE = 5.0  # seconds for a whole probe
_SILENCE = 1.5  # seconds after which who has not spoken first, as NATS does, is asked who it is
_OLDEST_REDIS = (6, 2)


@dataclass(frozen=True, slots=True)
class NatsFacts:
    """What a NATS server says about itself to everybody."""

    version: str
    jetstream: bool


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a Redis-compatible server says about itself; `product` is "redis" or "valkey"."""

    product: str
    version: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """An address that somebody named for one of our servers."""

    product: str
    url: SplitResult
    port: int

    @property
    def host(self) -> str:
        return self.url.hostname or "localhost"

    @property
    def where(self) -> str:
        """For messages: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.url.scheme}://{host}:{self.port}"


async def probe_nats(url: str) -> NatsFacts:
    """Ask the NATS server at `url` (`nats://` or `tls://`; several separated by commas: the first that answers).

    Raises NothingListens, WrongProtocol or ServerUnusable, each saying what to do. No account is needed or checked.
    """
    failed: ServerUnusable | None = None
    for one in url.split(","):
        try:
            return await _probe_one_nats(_parse(one.strip(), "NATS", NATS_SCHEMES, 4222))
        except ServerUnusable as error:
            failed = failed or error
    assert failed is not None, "split gives at least one part"
    raise failed


async def probe_redis(url: str) -> RedisFacts:
    """Log in to the Redis or Valkey server at `url` (`redis://` or `rediss://`) and ask for its version.

    Raises NothingListens, WrongProtocol, AccessDenied, TooOld or ServerUnusable, each saying what to do.
    """
    asked = _parse(url, "Redis", REDIS_SCHEMES, 6379)
    try:
        async with _connected(asked, tls=asked.url.scheme == "rediss") as connection:
            await log_in(connection, unquote(asked.url.username or ""), unquote(asked.url.password or ""))
            return _redis_facts(await connection.redis("INFO", "server"), asked)
    except UnexpectedReply as error:
        raise _wrong(asked, error.said) from None
    except RedisRefusal as error:
        raise _refused(asked, str(error)) from None


async def log_in(connection: Connection, user: str, password: str) -> None:
    """AUTH where there is a password, and PING. Raises RedisRefusal or UnexpectedReply."""
    if password:
        await connection.redis("AUTH", *([user] if user else []), password)
    if (reply := await connection.redis("PING")) != "PONG":
        raise UnexpectedReply(reply.encode())


async def _probe_one_nats(asked: _Asked) -> NatsFacts:
    try:
        # A NATS server greets in plain text, and only then turns to TLS.
        async with _connected(asked, tls=False) as connection:
            try:
                async with asyncio.timeout(_SILENCE):
                    said = await connection.line()
            except TimeoutError:
                connection.writer.write(
                    b"PING\r\n\r\n"
                )  # to HTTP a bad request, to Redis a ping: both say who they are
                said = await connection.line()
    except UnexpectedReply as error:
        said = error.said
    if not said.startswith(b"INFO {"):
        raise _wrong(asked, said)
    try:
        info: dict[str, Any] = json.loads(said[len(b"INFO ") :])
        return NatsFacts(version=str(info["version"]), jetstream=bool(info.get("jetstream", False)))
    except (ValueError, KeyError):
        raise _wrong(asked, said) from None


def _redis_facts(info: str, asked: _Asked) -> RedisFacts:
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    version = facts.get("redis_version", "")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST_REDIS:
        needed = ".".join(map(str, _OLDEST_REDIS))
        raise TooOld(
            f"the Redis at {asked.where} is version {version or 'unknown'}; {needed} or newer is needed",
            fix="update it, name another, or name none for a private one",
        )
    # Valkey also says which Redis it is compatible with; its own version is the one that people know.
    own = facts.get("valkey_version")
    return RedisFacts("valkey", own) if own else RedisFacts("redis", version)


def _parse(url: str, product: str, schemes: tuple[str, ...], usual_port: int) -> _Asked:
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        split, port = urlsplit(""), None
    if split.scheme not in schemes or not split.hostname:
        raise ServerUnusable(
            f"this is no {product} address; it has to start with {' or '.join(f'{scheme}://' for scheme in schemes)}",
            fix=f"for example {schemes[0]}://127.0.0.1:{usual_port}",
        )
    return _Asked(product, split, port or usual_port)


@asynccontextmanager
async def _connected(asked: _Asked, *, tls: bool) -> AsyncGenerator[Connection]:
    """A connection for the time of one probe; what can go wrong with any connection is put into words."""
    try:
        async with asyncio.timeout(_PATIENCE), Connection.open(asked.host, asked.port, tls=tls) as connection:
            yield connection
    except TimeoutError:
        raise NothingListens(f"{asked.where} does not answer within {_PATIENCE:g} s", fix=_check(asked)) from None
    except ssl.SSLError as error:
        raise ServerUnusable(
            f"no TLS connection to {asked.where}: {error.reason or error}", fix=_check(asked)
        ) from None
    except ConnectionRefusedError:
        raise NothingListens(f"nothing listens at {asked.where}", fix=_check(asked)) from None
    except ConnectionResetError:
        raise _wrong(asked, b"") from None
    except OSError as error:
        raise NothingListens(f"{asked.where} cannot be reached: {error.strerror or error}", fix=_check(asked)) from None


def _check(asked: _Asked) -> str:
    return f"start {asked.product} there, check the address, or name none for a private server"


def _wrong(asked: _Asked, said: bytes) -> WrongProtocol:
    who = _who_says(said)
    return WrongProtocol(
        f"{asked.where} is {who}, not {asked.product}",
        fix=f"name the {asked.product} server's own address, or none for a private server",
    )


def _who_says(said: bytes) -> str:
    """Whose first words these are."""
    if said.startswith(b"HTTP/"):
        return "an HTTP server"
    if said.startswith(b"INFO {"):
        return "a NATS server"
    if said.startswith((b"+PONG", b"-NOAUTH", b"-ERR", b"-DENIED", b"-LOADING")):
        return "a Redis server"
    if said.startswith(b"SSH-"):
        return "an SSH server"
    if said.startswith((b"\x15\x03", b"\x16\x03")):
        return "a server that wants TLS"
    return "something else" if said else "something that hangs up"


def _refused(asked: _Asked, reply: str) -> ServerUnusable:
    scheme = asked.url.scheme
    kind = reply.split(" ", 1)[0]
    if kind in ("NOAUTH", "DENIED"):
        return AccessDenied(
            f"the Redis at {asked.where} wants a password",
            fix=f"put it into the address: {scheme}://:PASSWORD@{asked.host}:{asked.port}",
        )
    if kind == "WRONGPASS" or "AUTH" in reply:
        return AccessDenied(
            f"the Redis at {asked.where} does not take this user and password", fix="check both in the address"
        )
    if kind == "LOADING":
        return ServerUnusable(f"the Redis at {asked.where} is still loading its data", fix="try again in a moment")
    if kind == "NOPERM":
        return AccessDenied(
            f"the user for {asked.where} may not run PING and INFO", fix="allow it: ACL SETUSER … +ping +info"
        )
    if reply.startswith("ERR unknown command"):
        return WrongProtocol(f"{asked.where} does not know what Redis knows: {reply}", fix=_check(asked))
    return ServerUnusable(f"the Redis at {asked.where} refuses: {reply}", fix=_check(asked))
