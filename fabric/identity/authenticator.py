"""Who sent a token: the operator, the holder of a key, or whoever the issuer says.

Above: the gateway. Below: keys, JWTs, settings. Whoever was seen before is found without waiting, from memory; only a
JWT that is new is verified, and only one that names a new key waits for its issuer.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Final

from fabric.identity.identity import ANONYMOUS, OPERATOR, Identity
from fabric.identity.jwt import Issuer, Verifier
from fabric.identity.keys import MARK, KnownKeys, fingerprint
from fabric.identity.oauth import Unauthenticated
from fabric.settings import Settings
from fabric_sdk.jetstream import JetStream

_RECENT: Final = 1024
_MOST_BYTES: Final = 8192
"""Longer than any token of use, and short enough to be hashed and read without a thought."""


class Authenticator:
    """Knows senders by their bearer tokens; `b""` stands for none."""

    def __init__(
        self,
        jetstream: JetStream,
        settings: Settings,
        on_revoked: Callable[[Identity], None] = lambda _: None,
        on_signing_keys: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        """`on_revoked` is told whose key is accepted no more, `on_signing_keys` which keys may sign from now on."""
        self._anonymous = ANONYMOUS if settings.anonymous else None
        self._operator = fingerprint(settings.token.get_secret_value().encode()) if settings.token else b""
        self._recent: dict[bytes, Identity] = {}
        """Whose tokens were sent lately: found by one look, until any key changes, an issuer's or ours."""
        self._keys = KnownKeys(jetstream, self._recent.clear, on_revoked)
        issuer = _issuer(settings)
        self._verifier = None if issuer is None else Verifier(issuer, self._signing_keys)
        self._on_signing_keys = on_signing_keys

    @property
    def ready(self) -> asyncio.Event:
        """Set once all keys that there were are known; before, a good key is refused."""
        return self._keys.ready

    async def run(self) -> None:
        """Follow what keys are created and revoked, and keep the issuer's, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keys.run())
            if self._verifier is not None:
                tasks.create_task(self._verifier.run())

    def known(self, token: bytes) -> Identity | None:
        """Who sent this token, if that can be told at once; else `identify` tells, or says why not."""
        if (recent := self._recent.get(token)) is not None and recent.expires > time.time():
            return recent
        if not token:
            return self._anonymous
        if len(token) > _MOST_BYTES:
            return None
        identity = self._remembered(token, fingerprint(token))
        if identity is None or identity.expires <= time.time():
            return None
        if len(self._recent) >= _RECENT:
            self._recent.clear()  # what is in use is back at once
        self._recent[token] = identity
        return identity

    async def identify(self, token: bytes) -> Identity:
        """Who sent this token. Needs `run`.

        Raises:
            Unauthenticated: it is not accepted.
            IssuerUnavailable: it may be the issuer's, whose keys could not be fetched yet.
        """
        if (identity := self.known(token)) is not None:
            return identity
        if not token:
            raise Unauthenticated("a bearer token is needed", fix="send it as `Authorization: Bearer …`", error=None)
        if len(token) > _MOST_BYTES:
            raise Unauthenticated(
                f"the token has {len(token)} bytes, and may have {_MOST_BYTES}", fix="put less into its claims"
            )
        digest = fingerprint(token)
        if self._verifier is not None and not token.startswith(MARK):
            return await self._verifier.verify(token, digest)
        raise _refused(self._remembered(token, digest))

    def _signing_keys(self, marks: frozenset[str]) -> None:
        self._recent.clear()
        self._on_signing_keys(marks)

    def _remembered(self, token: bytes, digest: bytes) -> Identity | None:
        """Whose token this is or was."""
        if hmac.compare_digest(digest, self._operator):
            return OPERATOR
        if token.startswith(MARK):
            return self._keys.holder(token, digest)
        return self._verifier.known(digest) if self._verifier is not None else None


def _refused(expired: Identity | None) -> Unauthenticated:
    """Why a token is refused that is no JWT, or was not meant to be one."""
    if expired is not None:
        return Unauthenticated("the key has expired", fix="ask for a new one: `fabric token create`")
    return Unauthenticated("the token is unknown or was revoked", fix="check it, or ask for one: `fabric token create`")


def _issuer(settings: Settings) -> Issuer | None:
    if settings.jwt_issuer is None or settings.jwt_audience is None or settings.jwt_jwks_url is None:
        return None
    return Issuer(
        name=settings.jwt_issuer,
        audience=settings.jwt_audience,
        keys_url=settings.jwt_jwks_url,
        roles_claim=settings.jwt_roles_claim,
    )
