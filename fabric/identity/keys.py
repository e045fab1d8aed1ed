"""API keys: shown once, kept as a hash, and checked from memory by every gateway.

Above: the authenticator, the agent `access`. Below: the fabric's tables. A key is `fab_<id>_<secret>`. The secret
is 256 random bits, which nobody guesses however fast the hash is; slow hashes protect what people think up themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fabric.identity.identity import Identity, Kind, Listing
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import AgentName
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import UnknownName
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.jetstream import JetStream, StoredMessage, Table, WrongSequence

log = logging.getLogger(__name__)

MARK: Final = b"fab_"
"""What every key begins with, so that scanners for leaked secrets know one."""

_ROWS: Final = subjects.access("key")
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 8
_TOLD_SECONDS: Final = 7 * 86_400.0
"""For so long after its end an expired key is still listed."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_WORD: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")
_ID: Final = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")
_TAKEN: Final = frozenset(("operator", "anonymous"))


def _named(name: str) -> str:
    # Without a colon: it cannot be taken for an agent's principal, nor for one that a JWT names.
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot name a key; use 1 to 64 of a-z 0-9 . _ @ -, a letter or digit first")
    if name in _TAKEN:
        raise ValueError(f"{name!r} is a principal of the fabric itself; use another name")
    return name


def _worded(word: str) -> str:
    if _WORD.fullmatch(word) is None:
        raise ValueError(f"{word!r} is no role or scope; use 1 to 128 visible ASCII characters, no quote, no backslash")
    return word


Name = Annotated[str, AfterValidator(_named)]
"""Whose key it is; keys of one name are the same principal, so that a new one can take over from an old one."""
Word = Annotated[str, AfterValidator(_worded)]
"""A role or a scope, as RFC 6749 spells one."""


class Key(BaseModel):
    """What is kept of a key: all but its secret."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: Name
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    principal: str
    kind: Kind
    agent: AgentName | None
    roles: tuple[Word, ...]
    scopes: tuple[Word, ...]
    created: float
    """Unix time in seconds, as `expires`; none: it does not."""
    expires: float | None
    listing: Listing

    @property
    def identity(self) -> Identity:
        """Who holds it."""
        return Identity(
            self.principal,
            kind=self.kind,
            agent=self.agent,
            roles=frozenset(self.roles),
            scopes=frozenset(self.scopes),
            expires=inf if self.expires is None else self.expires,
            token_id=self.id,
            listing=self.listing,
        )

    def summary(self) -> dict[str, Any]:
        """What is told of it."""
        return self.model_dump(mode="json", exclude={"hash"})


def fingerprint(token: bytes) -> bytes:
    """By what tokens are known: 32 bytes that give nothing of the token away."""
    return hashlib.blake2b(token, digest_size=32).digest()


def new_key(
    name: str,
    *,
    agent: str | None = None,
    roles: Iterable[str] = (),
    scopes: Iterable[str] = (),
    seconds: float | None = None,
    listing: Listing = "all",
) -> tuple[Key, str]:
    """A key, and its token, which is in nobody's memory but the caller's.

    Args:
        name: whose it is.
        agent: whose compositor it opens, if it is an agent's.
        roles: what policies call its holder.
        scopes: OAuth scopes that it grants.
        seconds: after which it is refused; never, by default.
        listing: what its holder's `tools/list` shows.

    Raises:
        ValidationError: a name, a role or a scope cannot be one.
    """
    key_id, now = secrets.token_hex(_ID_BYTES), time.time()
    token = f"{MARK.decode()}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    key = Key(
        id=key_id,
        name=name,
        hash=fingerprint(token.encode()).hex(),
        principal=name if agent is None else f"agent:{agent}",
        kind="human" if agent is None else "agent",
        agent=agent,
        roles=tuple(sorted(set(roles))),
        scopes=tuple(sorted(set(scopes))),
        created=now,
        expires=None if seconds is None else now + seconds,
        listing=listing,
    )
    return key, token


class KeyStore:
    """Keeps keys, and forgets them. It holds nothing itself: what it reads is what the broker has."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._table = Table(jetstream, ACCESS, _ROWS)

    async def add(self, key: Key) -> None:
        """Keep a new key.

        Raises:
            FabricError: the broker refuses, or does not answer; then the key may be kept or not, and nobody has it.
        """
        seconds = None if key.expires is None else key.expires - key.created + _TOLD_SECONDS
        # Not by compare-and-set: ids are random, and a repeat after a lost answer has to find its own row right.
        await self._table.put(key.id, key.model_dump(mode="json"), seconds=seconds)

    async def all(self) -> list[Key]:
        """Every key, the oldest first; those that expired for a week longer."""
        await self._jetstream.ensure(ACCESS)
        rows = self._jetstream.every(ACCESS, f"{_ROWS}*")
        return [key async for row in rows if (key := _key_of(row)) is not None]

    async def remove(self, key_id: str) -> Key:
        """Revoke a key: every gateway that is connected refuses it within a message's way.

        Raises:
            UnknownName: there is no such key.
            FabricError: the broker refuses, or does not answer.
        """
        if _ID.fullmatch(key_id) is not None:
            await self._jetstream.ensure(ACCESS)
            row = await self._jetstream.last(ACCESS, _ROWS + key_id)
            if row is not None and (key := _key_of(row)) is not None:
                with suppress(WrongSequence):  # rows never change, so somebody has removed it, perhaps we, unheard
                    await self._table.remove(key_id, expected=row.sequence)
                return key
        raise UnknownName(f"there is no key {key_id!r}", fix="`fabric token list` shows the ids of those there are")


class _Held(NamedTuple):
    """What a gateway keeps of a key."""

    digest: bytes
    identity: Identity


class KnownKeys:
    """The keys as a gateway knows them: a table that it follows."""

    def __init__(
        self,
        jetstream: JetStream,
        on_change: Callable[[], None],
        on_revoked: Callable[[Identity], None] = lambda _: None,
    ) -> None:
        self._on_change = on_change
        self._on_revoked = on_revoked
        self._table = Table(jetstream, ACCESS, _ROWS, self._changed)
        self._held: dict[bytes, _Held] = {}

    @property
    def ready(self) -> asyncio.Event:
        """Set once all keys that there were are known."""
        return self._table.ready

    async def run(self) -> None:
        """Follow what is created and revoked, until cancelled."""
        await self._table.run()

    def holder(self, token: bytes, digest: bytes) -> Identity | None:
        """Who holds this token, of which this is the fingerprint; it may have expired."""
        held = self._held.get(token[len(MARK) :].partition(b"_")[0])
        return held.identity if held and hmac.compare_digest(held.digest, digest) else None

    def _changed(self, key_id: str) -> None:
        self._on_change()
        was = self._held.pop(key_id.encode(), None)  # what replaces a row and is none revokes it
        if (row := self._table.get(key_id)) is not None and (key := _checked(key_id, Body(row.value))) is not None:
            self._held[key_id.encode()] = _Held(bytes.fromhex(key.hash), key.identity)
        if was is not None and self._held.get(key_id.encode()) != was:
            self._on_revoked(was.identity)


def _key_of(row: StoredMessage) -> Key | None:
    return _checked(row.subject.removeprefix(_ROWS), row.body) if row.body.encoded() else None


def _checked(key_id: str, body: Body) -> Key | None:
    try:
        return Key.model_validate(body.value())
    except ValueError:
        log.warning("the key %s is not as the fabric writes keys: it opens nothing", key_id)
        return None
