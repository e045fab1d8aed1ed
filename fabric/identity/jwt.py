"""JSON Web Tokens of one issuer: verified once, then known by their fingerprint until they expire.

Above: the authenticator. Below: the issuer's keys, PyJWT. To verify a signature costs 50 to 130 µs, to find a token
that was verified one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import quote

import jwt

from fabric.identity.identity import Identity
from fabric.identity.jwks import ALGORITHMS, KeySet, VerifyingKey
from fabric.identity.oauth import IssuerUnavailable, Unauthenticated
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.subjects import checked_agent_name

LEEWAY: Final = 30.0
"""Seconds by which the issuer's clock and ours may differ."""

_MOST_VERIFIED: Final = 10_000
_MOST_PRINCIPAL: Final = 255
"""Characters of a subject as it stands in a header; OpenID Connect's own bound."""
_LAST_MOMENT: Final = 1 << 53
_ALL: Final = tuple(name for names in ALGORITHMS.values() for name in names)
_REQUIRED: Final = ("iss", "aud", "exp", "sub")
_NEW_TOKEN: Final = "get a new one from the issuer"

_decoder: Final = jwt.PyJWT()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Whose tokens are accepted, and for whom they have to be."""

    name: str
    """A URL without fragment."""
    audience: str
    keys_url: str
    roles_claim: str = "roles"


class Verifier:
    """Knows one issuer's tokens."""

    def __init__(self, issuer: Issuer, on_change: Callable[[frozenset[str]], None] = lambda _: None) -> None:
        """`on_change` is told the marks of the issuer's keys when they change: other keys' tokens are known no more."""
        self._issuer = issuer
        self._verified: dict[bytes, Identity] = {}
        # A key that is withdrawn or replaced takes the tokens with it that it has signed.
        self._keys = KeySet(issuer.keys_url, self._forget)
        self._on_change = on_change

    async def run(self) -> None:
        """Keep the issuer's keys, until cancelled."""
        await self._keys.run()

    def _forget(self) -> None:
        self._verified.clear()
        self._on_change(frozenset(key.mark for key in self._keys.keys.values()))

    def known(self, digest: bytes) -> Identity | None:
        """Whom the token of this fingerprint was issued to, if it was verified before; it may have expired since."""
        return self._verified.get(digest)

    async def verify(self, token: bytes, digest: bytes) -> Identity:
        """Whom this token, of which this is the fingerprint, was issued to. Needs `run`.

        Raises:
            Unauthenticated: it is not accepted.
            IssuerUnavailable: no key of the issuer could be fetched yet.
        """
        kid = claimed_key(token, self._issuer)
        key = await self._keys.find(kid)
        if key is None and not self._keys.keys:
            raise IssuerUnavailable(fix="try again in some seconds; the gateway's log says what is wrong")
        if key is None:
            raise _without_key(kid)
        claims = verified_claims(token, key, self._issuer)
        identity = identity_of(claims, self._issuer, digest.hex()[:16], key.mark)
        if len(self._verified) >= _MOST_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = identity
        return identity


def identity_of(claims: Mapping[str, Any], issuer: Issuer, token_id: str, signed_by: str) -> Identity:
    """Whom verified claims are about.

    Raises:
        Unauthenticated: a claim is not as it has to be.
    """
    agent = claims.get("agent")
    if agent is not None:
        try:
            checked_agent_name(agent)
        except (ConfigurationError, TypeError):
            raise _malformed(f"its claim `agent`, {_shown(agent)}, names no agent") from None
    # No key's name has a #, and no other issuer's subjects begin with this issuer before it.
    return Identity(
        f"{issuer.name}#{_subject(claims.get('sub'))}",
        kind="human" if agent is None else "agent",
        agent=agent,
        roles=_words(claims, issuer.roles_claim),
        scopes=_words(claims, "scope", spaced=True) | _words(claims, "scp", spaced=True),
        expires=min(int(claims["exp"]), _LAST_MOMENT) + LEEWAY,
        token_id=token_id,
        signed_by=signed_by,
        listing="search" if claims.get("listing") == "search" else "all",
        may_step_up=True,
    )


def claimed_key(token: bytes, issuer: Issuer) -> str | None:
    """The id of the key that a token says it is signed with, if the token could be one of this issuer's.

    Looked at before any key: what is none of the issuer's must not make anybody ask the issuer.
    """
    try:
        parts = _decoder.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError) as broken:
        raise _malformed(f"it is no JSON Web Token ({broken})") from None
    header, claims = cast("dict[str, Any]", parts["header"]), cast("dict[str, Any]", parts["payload"])
    if (algorithm := header.get("alg")) not in _ALL:
        raise Unauthenticated(
            f"the token is signed with the algorithm {_shown(algorithm)}", fix=f"use one of {', '.join(_ALL)}"
        )
    if (named := claims.get("iss")) != issuer.name:
        raise Unauthenticated(f"the token was issued by {_shown(named)}", fix=f"get one from {issuer.name}")
    return header.get("kid")


def verified_claims(token: bytes, key: VerifyingKey, issuer: Issuer) -> dict[str, Any]:
    """The claims of a token that this key has signed."""
    try:
        return _decoder.decode(
            token,
            key.public,
            algorithms=key.algorithms,
            issuer=issuer.name,
            audience=issuer.audience,
            leeway=LEEWAY,
            options={"require": list(_REQUIRED)},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired", fix=_NEW_TOKEN) from None
    except jwt.ImmatureSignatureError:
        raise Unauthenticated("the token is not valid yet", fix="wait, or set the clocks right") from None
    except jwt.InvalidAudienceError:
        raise Unauthenticated("the token is for another audience", fix=f"get one for {issuer.audience}") from None
    except jwt.MissingRequiredClaimError as missing:
        raise _malformed(f"it has no claim `{missing.claim}`") from None
    except jwt.InvalidAlgorithmError:
        raise Unauthenticated(
            "the token is signed with another algorithm than its key is for", fix=f"use {', '.join(key.algorithms)}"
        ) from None
    except jwt.InvalidSignatureError:
        raise Unauthenticated("the token's signature is not its issuer's", fix=_NEW_TOKEN) from None
    except (jwt.PyJWTError, ValueError, TypeError) as wrong:
        raise _malformed(str(wrong)) from None


def _subject(sub: Any) -> str:
    """A subject as it may stand in a header: one for each, whatever it is written in."""
    try:
        encoded = quote(sub, safe="!$&'()*+,;=:@/|~") if isinstance(sub, str) else ""
    except UnicodeEncodeError:  # half of a character
        encoded = ""
    if not 0 < len(encoded) <= _MOST_PRINCIPAL:
        raise _malformed(f"its claim `sub` has to be text of 1 to {_MOST_PRINCIPAL} characters")
    return encoded


def _words(claims: Mapping[str, Any], name: str, *, spaced: bool = False) -> frozenset[str]:
    """The words that a claim lists, or, where that is usual, says with spaces between."""
    said = claims.get(name, [])
    if spaced and isinstance(said, str):
        said = said.split()
    if not isinstance(said, list) or not all(isinstance(word, str) for word in cast("list[Any]", said)):
        raise _malformed(f"its claim {_shown(name)} has to be a list of strings")
    return frozenset(cast("list[str]", said))


def _without_key(kid: str | None) -> Unauthenticated:
    if kid is None:
        return _malformed("it does not say by which of the issuer's keys it is signed (`kid`)")
    return Unauthenticated(
        f"the token is signed with the key {_shown(kid)}, which the issuer does not publish",
        fix=f"{_NEW_TOKEN}; if it is new, try again in ten seconds",
    )


def _malformed(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token cannot be used: {why}", fix="ask the issuer for an access token (RFC 9068)")


def _shown(value: object) -> str:
    return repr(value)[:80]
