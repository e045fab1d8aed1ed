"""The issuer's public keys: fetched in the background, found at once, and kept while their place is away.

Above: `jwt`. Below: PyJWT, which reads key sets. One loop does all fetching, so however many tokens name
keys that nobody has heard of, the issuer is asked once in `_REST_SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, url2pathname

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.types import JWKDict

from fabric.files import read_whole
from fabric_sdk.contracts.errors import ConfigurationError

log = logging.getLogger(__name__)

ALGORITHMS: Final = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""What each type of key may be used with: no secret that both sides know (HS…), and never `none`."""

_REST_SECONDS: Final = 10.0
"""After a fetch, whatever came of it."""
_RENEW_SECONDS: Final = 600.0
"""For so long a key that the issuer has withdrawn is still used, unless a new one is met before."""
_FETCH_SECONDS: Final = 5.0
_MOST_BYTES: Final = 1_048_576
"""Of a key set: a thousand keys have fewer."""
_LEAST_RSA_BITS: Final = 2048
_FIX: Final = "check FABRIC_JWT_JWKS_URL; it has to give a JSON Web Key Set (RFC 7517)"


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One public key."""

    public: Any
    """As PyJWT takes it."""
    algorithms: tuple[str, ...]
    """What a token may name as its algorithm, if it is signed with it."""
    mark: str
    """Names this very key: another one under its id has another."""


def verifying_keys(document: Any) -> dict[str, VerifyingKey]:
    """The keys of a JSON Web Key Set that can verify, by `kid` (`""` for one without); others are passed over.

    Raises:
        ConfigurationError: it is no key set, or has none that can be used.
    """
    members = cast("dict[Any, Any]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ConfigurationError("this is no JSON Web Key Set: it has no list `keys`", fix=_FIX)
    keys: dict[str, VerifyingKey] = {}
    unfit: list[str] = []
    for member in cast("list[Any]", members):
        try:
            kid, key = _verifying_key(member)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as why:  # foreign, so of any shape
            unfit.append(f"{why}"[:100])
        else:
            keys.setdefault(kid, key)
    if not keys:
        why = unfit[0] if unfit else "it is empty"
        raise ConfigurationError(
            f"none of the {len(unfit)} keys of this JSON Web Key Set can be used: {why}",
            fix="let the issuer publish an RSA key of 2048 bits or more, an EC key, or an Ed25519 key",
        )
    return keys


class KeySet:
    """The keys that are published at one address."""

    def __init__(self, url: str, on_change: Callable[[], None]) -> None:
        self.keys: dict[str, VerifyingKey] = {}
        """As they were when last fetched; empty before that."""
        self._url = url
        self._on_change = on_change
        self._document: Any = None
        self._trouble = ""
        self._wanted = asyncio.Event()
        self._fetched = asyncio.Event()
        """Set while a fetch is so recent that another one is not worth its price."""

    async def run(self) -> None:
        """Fetch the keys, and again where they are missed or old, until cancelled."""
        while True:
            fetched = await self._fetch()
            self._fetched.set()
            await asyncio.sleep(_REST_SECONDS)
            self._fetched.clear()
            self._wanted.clear()  # who has missed a key meanwhile was refused, and comes again
            if fetched:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RENEW_SECONDS - _REST_SECONDS):
                        await self._wanted.wait()

    async def find(self, kid: str | None) -> VerifyingKey | None:
        """The key of this id; if it is not known, after one fetch, unless there was one just now. Needs `run`.

        A token that names no key is signed with the only one, if there is but one.
        """
        if (found := self._known(kid)) is None:
            self._wanted.set()
            await self._fetched.wait()
            found = self._known(kid)
        return found

    def _known(self, kid: str | None) -> VerifyingKey | None:
        if kid is not None:
            return self.keys.get(kid)
        return next(iter(self.keys.values())) if len(self.keys) == 1 else None

    async def _fetch(self) -> bool:
        """Renew the keys; tell whether that worked. Those that were known stay where it did not."""
        try:
            async with asyncio.timeout(3 * _FETCH_SECONDS):  # names are looked up in no time of ours
                document = await asyncio.to_thread(_read, self._url)
            keys = verifying_keys(document)
        except Exception as failure:  # whatever a foreign server says must not end the fetching
            self._tell(failure)
            return False
        self._trouble = ""
        if document != self._document:
            self._document, self.keys = document, keys
            self._on_change()
        return True

    def _tell(self, failure: Exception) -> None:
        """Log what is wrong, once for as long as it stays the same."""
        told = failure
        if not isinstance(failure, ConfigurationError):
            why = "it did not answer in time" if isinstance(failure, TimeoutError) else failure
            told = ConfigurationError(f"the issuer's keys cannot be read from {self._url}: {why}", fix=_FIX)
        if str(told) != self._trouble:
            self._trouble = str(told)
            log.warning("%s; %s", told, "those known go on being used" if self.keys else "no JWT is accepted")


def _verifying_key(member: Any) -> tuple[str, VerifyingKey]:
    kty, use, kid = member.get("kty"), member.get("use", "sig"), member.get("kid", "")
    if kty not in ALGORITHMS or use != "sig" or not isinstance(kid, str):
        raise ValueError(f"a key of type {kty!r} for use {use!r} verifies no signature here")
    named = member.get("alg")
    if named is not None and named not in ALGORITHMS[kty]:
        raise ValueError(f"algorithm {named!r} is none of {', '.join(ALGORITHMS[kty])}")
    public = jwt.PyJWK(cast("JWKDict", member), named).key
    if isinstance(public, RSAPublicKey) and public.key_size < _LEAST_RSA_BITS:
        raise ValueError(f"an RSA key of {public.key_size} bits is too easily broken")
    written = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return kid, VerifyingKey(public, ALGORITHMS[kty] if named is None else (named,), sha256(written).hexdigest())


def _read(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return json.loads(read_whole(Path(url2pathname(parts.path)), _MOST_BYTES))
    asked = Request(url, headers={"accept": "application/json", "user-agent": "agent-fabric"})
    with build_opener(_NoRedirect).open(asked, timeout=_FETCH_SECONDS) as response:
        return json.loads(_whole(response))


def _whole(response: Any) -> bytes:
    """All there is to read, if it is not too much, and comes in time.

    It is read in a thread, which nobody can end from outside: one that waited for ever would be one less for all.
    """
    until, document = time.monotonic() + _FETCH_SECONDS, bytearray()
    while more := response.read1(_MOST_BYTES):
        document += more
        if len(document) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    return bytes(document)


class _NoRedirect(HTTPRedirectHandler):
    """The settings say where the keys are, and how safe the way there is: the answer says nothing of it."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Follow none."""
