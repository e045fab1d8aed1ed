"""State that travels through a client and must come back as it was: encrypted, for one sender, one request, one time.

Above: `asking`, `modern`. Below: AES-GCM, and a key that all gateways share: whichever comes first puts it among the
access data. A client can read nothing of a state, change nothing, and lend it to nobody.
"""

from __future__ import annotations

import hashlib
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import WrongSequence

LASTS: Final = 900.0
"""Seconds for which a state may come back; a handler waits for as long."""
_NONCE: Final = 12
_KEY_BYTES: Final = 32
_LARGEST: Final = 1024 * 1024


class Broken(Exception):
    """What came back is not what was given, or not to this sender, or too late."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a state is good for."""

    principal: str | None
    method: str
    name: str
    arguments: bytes

    def digest(self) -> bytes:
        parts = ((self.principal or "").encode(), self.method.encode(), self.name.encode(), self.arguments)
        digest = hashlib.blake2b(digest_size=16)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class State:
    """What a question is answered with, as far as the client is concerned."""

    inner: str | None
    """The agent's own state."""
    asked: dict[str, str] = field(default_factory=dict[str, str])
    """Of each request its method."""
    approved: str = ""
    """Of which rule it was that whoever sends this was allowed the request; empty: nobody had to be asked."""
    number: str = ""
    """Its own; whoever uses it up names it."""


class Seal:
    """Seals states and opens them."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, state: State, bound: Bound) -> str:
        """`state` as the client carries it."""
        nonce = os.urandom(_NONCE)
        said = orjson.dumps([time.time() + LASTS, state.inner, state.asked, state.approved])
        return urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, said, bound.digest())).decode()

    def open(self, sealed: Any, bound: Bound) -> State:
        """The state that was sealed.

        Raises:
            Broken: it was tampered with, is another's, belongs to another request, or is too old.
        """
        try:
            if not isinstance(sealed, str) or len(sealed) > _LARGEST:
                raise Broken
            raw = urlsafe_b64decode(sealed.encode("ascii"))
            if urlsafe_b64encode(raw).decode() != sealed:  # what is not Base64 was passed over
                raise Broken
            until, inner, asked, approved = orjson.loads(
                self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], bound.digest())
            )
        except (ValueError, InvalidTag, UnicodeEncodeError):
            raise Broken from None
        if until < time.time():
            raise Broken
        return State(inner, asked, approved, raw[:_NONCE].hex())


async def shared_seal(fabric: Fabric) -> Seal:
    """The seal of all gateways of this fabric.

    Raises:
        FabricError: the broker has no JetStream, or does not answer.
    """
    await fabric.jetstream.ensure(ACCESS)
    subject = subjects.access("secret") + "seal"
    if (found := await fabric.jetstream.last(ACCESS, subject)) is None:
        try:
            fresh = Body({"key": os.urandom(_KEY_BYTES).hex()})
            await fabric.jetstream.store(subject, fresh, {Header.EXPECTED: "0"})
        except WrongSequence:
            pass  # another gateway was quicker
        found = await fabric.jetstream.last(ACCESS, subject)
        assert found is not None
    return Seal(bytes.fromhex(found.body.members()["key"]))


async def use_up(fabric: Fabric, state: State) -> None:
    """Have `state` never used again, at any gateway.

    Raises:
        Broken: it was used before.
    """
    headers = {Header.EXPECTED: "0", Header.TTL: f"{int(LASTS) + 60}s"}
    try:
        await fabric.jetstream.store(subjects.access("used") + state.number, Body(1), headers)
    except WrongSequence:
        raise Broken from None
