"""Who is let in by which token, and who is refused in which words. Proves: SE-1"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.waiting import eventually

from fabric.identity import jwks
from fabric.identity.authenticator import Authenticator
from fabric.identity.identity import ANONYMOUS, OPERATOR
from fabric.identity.keys import KeyStore, new_key
from fabric.identity.oauth import Unauthenticated
from fabric.settings import load_settings
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end
from identity.issuer import AUDIENCE, NAME, claims, elliptic, endpoint


@asynccontextmanager
async def authenticating(fabric: Fabric, **settings: Any) -> AsyncGenerator[Authenticator]:
    """An authenticator that knows all keys there are."""
    authenticator = Authenticator(fabric.jetstream, load_settings(**settings))
    running = asyncio.create_task(authenticator.run())
    try:
        await asyncio.wait_for(authenticator.ready.wait(), 10)
        yield authenticator
    finally:
        await end([running])


async def refused(authenticator: Authenticator, token: bytes, words: str) -> None:
    """Hold a token to be refused, in these words, however often it comes."""
    for _ in range(2):
        assert authenticator.known(token) is None
        with pytest.raises(Unauthenticated, match=words) as why:
            await authenticator.identify(token)
        assert why.value.fix
        assert why.value.error == ("invalid_token" if token else None)


async def test_each_kind_of_token_is_known_by_what_it_is(fabric: Fabric) -> None:
    store, issued = KeyStore(fabric.jetstream), elliptic("one")
    key, token = new_key("ann", roles=["dev"])
    await store.add(key)
    with endpoint(issued) as served:
        jwt = {"jwt_issuer": NAME, "jwt_audience": AUDIENCE, "jwt_jwks_url": served.url}
        async with authenticating(fabric, token="s3cret", **jwt) as authenticator:
            assert authenticator.known(b"s3cret") is OPERATOR
            assert authenticator.known(token.encode()) == await authenticator.identify(token.encode()) == key.identity
            signed = issued.sign(claims())
            assert authenticator.known(signed) is None, "it has to be verified first"
            identity = await authenticator.identify(signed)
            assert identity.principal == f"{NAME}#ann"
            assert identity.token_id not in signed.decode()
            assert authenticator.known(signed) is identity
            await refused(authenticator, b"", "a bearer token is needed")
            await refused(authenticator, b"s3cre", "no JSON Web Token")
            await refused(authenticator, issued.sign(claims(exp=1)), "has expired")
            await refused(authenticator, issued.sign(claims(more="x" * 8192)), r"may have 8192.*less into its claims")
            await refused(authenticator, token.encode()[:-1], "unknown or was revoked")
            await refused(authenticator, token.encode() + b"x", "unknown or was revoked")
            for odd in (b"fab_", b"fab__", b"fab_\xff_x", b"fab_" + key.id.encode(), b"fab_" + b"x" * 8000):
                await refused(authenticator, odd, "unknown or was revoked")
            await store.remove(key.id)
            await eventually(lambda: authenticator.known(token.encode()) is None)
            await refused(authenticator, token.encode(), "unknown or was revoked.*fabric token create")


async def test_what_expires_is_refused_by_the_clock(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    store, issued = KeyStore(fabric.jetstream), elliptic("one")
    key, token = new_key("ann", seconds=60)
    await store.add(key)
    with endpoint(issued) as served:
        jwt = {"jwt_issuer": NAME, "jwt_audience": AUDIENCE, "jwt_jwks_url": served.url}
        async with authenticating(fabric, token="s3cret", **jwt) as authenticator:
            signed = issued.sign(claims(exp=int(time.time()) + 600))
            assert await authenticator.identify(signed) is authenticator.known(signed)
            assert authenticator.known(token.encode()) == key.identity
            now = time.time() + 700  # the key had a minute, and the token had ten
            monkeypatch.setattr("fabric.identity.authenticator.time.time", lambda: now)
            assert authenticator.known(signed) is None
            await refused(authenticator, token.encode(), "the key has expired.*fabric token create")
            assert authenticator.known(b"s3cret") is OPERATOR


async def test_a_key_that_the_issuer_withdraws_takes_its_tokens_with_it(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_REST_SECONDS", 0.01)
    monkeypatch.setattr(jwks, "_RENEW_SECONDS", 0.02)
    issued = elliptic("one")
    with endpoint(issued) as served:
        jwt = {"jwt_issuer": NAME, "jwt_audience": AUDIENCE, "jwt_jwks_url": served.url}
        async with authenticating(fabric, token="s3cret", **jwt) as authenticator:
            signed = issued.sign(claims())
            assert await authenticator.identify(signed) is authenticator.known(signed)
            served.publish(elliptic("two"))
            await eventually(lambda: authenticator.known(signed) is None)
            await refused(authenticator, signed, "does not publish")


async def test_however_many_come_those_in_use_are_known(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabric.identity.authenticator._RECENT", 3)
    store = KeyStore(fabric.jetstream)
    made = [new_key(f"ann-{number}") for number in range(10)]
    for key, _ in made:
        await store.add(key)
    async with authenticating(fabric, token="s3cret") as authenticator:
        for _ in range(2):
            for key, token in made:
                assert authenticator.known(token.encode()) == key.identity
            assert authenticator.known(b"s3cret") is OPERATOR


async def test_without_an_issuer_no_jwt_is_taken(fabric: Fabric) -> None:
    async with authenticating(fabric, token="s3cret") as authenticator:
        await refused(authenticator, elliptic("one").sign(claims()), "unknown or was revoked")


async def test_anonymous_is_who_sends_nothing_and_only_where_configured(fabric: Fabric) -> None:
    async with authenticating(fabric, anonymous=True) as authenticator:
        assert authenticator.known(b"") is await authenticator.identify(b"") is ANONYMOUS
        await refused(authenticator, b"anything", "unknown")
    async with authenticating(fabric, token="s3cret") as authenticator:
        await refused(authenticator, b"", "a bearer token is needed")
