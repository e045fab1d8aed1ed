"""JSON Web Tokens: who is let in, who is refused and in which words, and what an issuer's troubles do to that.

Proves: SE-1 (audience, issuer, algorithms, rotation, caching; bad tokens are refusals, never failures)
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from support.waiting import eventually

from fabric.identity import jwks
from fabric.identity import jwt as ours
from fabric.identity.identity import Identity
from fabric.identity.jwks import verifying_keys
from fabric.identity.jwt import LEEWAY, Issuer, Verifier, claimed_key, identity_of, verified_claims
from fabric.identity.keys import Name, fingerprint
from fabric.identity.oauth import IssuerUnavailable, Unauthenticated
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.errors import ConfigurationError
from identity.issuer import (
    AUDIENCE,
    NAME,
    Endpoint,
    Json,
    Signer,
    by_hand,
    claims,
    edwards,
    elliptic,
    endpoint,
    rivest,
)

ISSUER = Issuer(name=NAME, audience=AUDIENCE, keys_url="unused")
NOW = int(time.time())
ONE = elliptic("one")
TEXT = st.text(max_size=30)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


def accept(token: bytes, *signers: Signer) -> Identity:
    """What becomes of a token where these keys are known."""
    keys = verifying_keys({"keys": [each.public for each in signers or (ONE,)]})
    kid = claimed_key(token, ISSUER)
    return identity_of(verified_claims(token, keys[kid or ""], ISSUER), ISSUER, "id", "key")


@asynccontextmanager
async def verifying(served: Endpoint | str) -> AsyncGenerator[Callable[[bytes], Any]]:
    """A verifier with the keys at this address."""
    url = served if isinstance(served, str) else served.url
    verifier = Verifier(Issuer(name=NAME, audience=AUDIENCE, keys_url=url))
    running = asyncio.create_task(verifier.run())

    async def verify(token: bytes) -> Identity:
        known = verifier.known(fingerprint(token))
        return known or await asyncio.wait_for(verifier.verify(token, fingerprint(token)), 10)

    try:
        yield verify
    finally:
        await end([running])


async def soon(verify: Callable[[bytes], Any], token: bytes) -> Identity:
    """What becomes of a token once its key is known: right after a fetch, none is looked for."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await verify(token)
            except (Unauthenticated, IssuerUnavailable):
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("signer", [rivest("r"), ONE, edwards("e")], ids=lambda signer: signer.algorithm)
def test_a_good_token_says_who_is_there(signer: Signer) -> None:
    said = claims(roles=["admin", "dev"], scope="mcp:read mcp:write", scp=["more"])
    assert accept(signer.sign(said), signer) == Identity(
        f"{NAME}#ann",
        roles=frozenset({"admin", "dev"}),
        scopes=frozenset({"mcp:read", "mcp:write", "more"}),
        expires=said["exp"] + LEEWAY,
        token_id="id",
        signed_by="key",
        may_step_up=True,
    )


@pytest.mark.parametrize(
    ("claimed", "listing"), [("search", "search"), ("all", "all"), (["search"], "all"), (7, "all")]
)
def test_a_claim_hides_tools_behind_a_search(claimed: Any, listing: str) -> None:
    assert accept(ONE.sign(claims(listing=claimed))).listing == listing


def test_an_agents_token_is_the_agents() -> None:
    identity = accept(ONE.sign(claims(agent="shop", aud=["other", AUDIENCE])))
    assert (identity.kind, identity.agent, identity.principal) == ("agent", "shop", f"{NAME}#ann")


def test_roles_are_taken_from_the_claim_that_was_named() -> None:
    issuer = Issuer(name=NAME, audience=AUDIENCE, keys_url="", roles_claim="https://example.com/roles")
    said = claims(roles=["admin"], **{"https://example.com/roles": ["dev"]})
    assert identity_of(said, issuer, "", "").roles == {"dev"}


def confused() -> bytes:
    """A token whose HMAC has the issuer's public key as its secret."""
    secret = ONE.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = by_hand({"alg": "HS256", "kid": "one"}, claims())[:-1]
    return unsigned + b"." + by_hand(hmac.digest(secret, unsigned, hashlib.sha256), b"").split(b".")[0]


def tampered() -> bytes:
    head, _, signature = ONE.sign(claims()).split(b".")
    return b".".join((head, by_hand(claims(sub="operator"), b"").split(b".")[0], signature))


REFUSED: dict[str, tuple[bytes, str]] = {
    "expired": (ONE.sign(claims(exp=NOW - 100)), "has expired"),
    "not yet valid": (ONE.sign(claims(nbf=NOW + 10_000)), "not valid yet"),
    "from the future": (ONE.sign(claims(iat=NOW + 10_000)), "not valid yet"),
    "for another audience": (ONE.sign(claims(aud="https://other.example")), "another audience.*fabric.example.com"),
    "for nobody": (ONE.sign(claims(aud=None)), "no claim `aud`"),
    "of another issuer": (ONE.sign(claims(iss="https://evil.example")), "issued by 'https://evil.example'"),
    "of no issuer": (ONE.sign(claims(iss=None)), "issued by None"),
    "for ever": (ONE.sign(claims(exp=None)), "no claim `exp`"),
    "about nobody": (ONE.sign(claims(sub=None)), "no claim `sub`"),
    "about no text": (ONE.sign(claims(sub=7)), "Subject must be a string"),
    "about an empty text": (ONE.sign(claims(sub="")), "`sub` has to be text"),
    "about half of a character": (ONE.sign(claims(sub="\ud800")), "`sub` has to be text"),
    "about somebody with a long name": (ONE.sign(claims(sub="x" * 256)), "`sub` has to be text of 1 to 255"),
    "of no agent": (ONE.sign(claims(agent="Not An Agent")), "'Not An Agent', names no agent"),
    "of an agent in a list": (ONE.sign(claims(agent=["shop"])), "names no agent"),
    "with a role that is no list": (ONE.sign(claims(roles="admin")), "'roles' has to be a list"),
    "with numbers as scopes": (ONE.sign(claims(scp=[1])), "'scp' has to be a list"),
    "with an endless end": (ONE.sign(claims(exp=float("inf"))), "must be an integer"),
    "unsigned": (by_hand({"alg": "none"}, claims()), "algorithm 'none'"),
    "of no algorithm": (by_hand({}, claims()), "algorithm None"),
    "of algorithms": (by_hand({"alg": ["ES256"]}, claims()), "algorithm \\['ES256'\\]"),
    "signed with the public key as a secret": (confused(), "algorithm 'HS256'"),
    "signed otherwise than its key is for": (by_hand({"alg": "RS256", "kid": "one"}, claims(), b"x"), "use ES256"),
    "signed by somebody else": (Signer("one", elliptic("x").private, "ES256").sign(claims()), "signature is not"),
    "tampered with": (tampered(), "signature is not"),
    "with critical extensions": (by_hand({"alg": "ES256", "crit": ["x"]}, claims()), "no JSON Web Token.*extension"),
    "with a key's id that is none": (by_hand({"alg": "ES256", "kid": 1}, claims()), "no JSON Web Token"),
    "not UTF-8": (b"\xff\xfe.\x80.\x00", "no JSON Web Token"),
    "not UTF-8 inside": (by_hand(b'{"alg":"\xff"}', claims()), "no JSON Web Token"),
    "not JSON": (by_hand(b"alg", claims()), "no JSON Web Token"),
    "a list": (by_hand({"alg": "ES256"}, [claims()]), "no JSON Web Token"),
    "bottomless": (by_hand({"alg": "ES256"}, b"[" * 6000), "no JSON Web Token"),
    "words": (b"let me in", "no JSON Web Token"),
    "dots": (b"..", "no JSON Web Token"),
}  # fmt: skip


@pytest.mark.parametrize(("token", "words"), REFUSED.values(), ids=list(REFUSED))
def test_a_bad_token_is_refused_in_words_that_say_the_fix(token: bytes, words: str) -> None:
    keys = {"": ONE.public, "one": ONE.public}
    with pytest.raises(Unauthenticated, match=words) as refused:
        accept(token, *(Signer(kid, ONE.private, "ES256") for kid in keys))
    assert (refused.value.error, bool(refused.value.fix)) == ("invalid_token", True)


def test_clocks_may_differ_a_little() -> None:
    now = int(time.time())
    assert accept(ONE.sign(claims(exp=now - 5, nbf=now + 20, iat=now + 20)))


@settings(deadline=None)
@given(token=st.binary(max_size=200) | st.builds(by_hand, JSON, JSON, st.binary(max_size=70)))
def test_whatever_is_sent_is_refused_and_breaks_nothing(token: bytes) -> None:
    with pytest.raises(Unauthenticated):
        accept(token)


@settings(deadline=None)
@given(other=st.dictionaries(st.sampled_from(list(claims())) | st.sampled_from(["roles", "scope", "agent"]), JSON))
def test_whatever_is_signed_says_who_is_there_or_is_refused(other: Json) -> None:
    try:
        identity = accept(ONE.sign({**claims(), **other}))
    except Unauthenticated:
        return
    assert identity.principal.isascii()
    assert identity.principal.isprintable()
    assert " " not in identity.principal


@given(one=st.text(min_size=1, max_size=20), two=st.text(min_size=1, max_size=20), realm=st.sampled_from("ab"))
def test_no_two_subjects_are_one_principal_and_none_is_a_keys(one: str, two: str, realm: str) -> None:
    other = Issuer(name=NAME[:-1] + realm, audience="", keys_url="")
    first = identity_of({"sub": one, "exp": 1}, ISSUER, "", "").principal
    second = identity_of({"sub": two, "exp": 1}, other, "", "").principal
    assert (first == second) == ((one, ISSUER.name) == (two, other.name))
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(first)


async def test_a_token_is_verified_once_and_forgotten_with_the_key_that_signed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "_REST_SECONDS", 0.01)
    two = elliptic("two")
    old, new = ONE.sign(claims(sub="old")), two.sign(claims(sub="new"))
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            first = await verify(old)
            assert first.principal == f"{NAME}#old"
            assert await verify(old) is first
            served.publish(two)
            assert (await soon(verify, new)).principal == f"{NAME}#new", "an unknown key is looked for"
            with pytest.raises(Unauthenticated, match="'one', which the issuer does not publish"):
                await verify(old)


async def test_made_up_keys_are_looked_for_once_and_refused_at_once() -> None:
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            await verify(ONE.sign(claims()))
            flood = [Signer(f"made-up-{number}", ONE.private, "ES256").sign(claims()) for number in range(100)]
            outcomes = await asyncio.gather(*map(verify, flood), return_exceptions=True)
            assert {type(each) for each in outcomes} == {Unauthenticated}
            assert served.asked == 1


async def test_what_is_not_the_issuers_makes_nobody_ask_the_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_REST_SECONDS", 0.0)
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            await verify(ONE.sign(claims()))
            for other in (elliptic("x").sign(claims(iss="https://evil.example")), b"let me in", confused()):
                with pytest.raises(Unauthenticated):
                    await verify(other)
            assert served.asked == 1


async def test_many_that_come_while_the_keys_are_fetched_wait_for_the_same_fetch() -> None:
    with endpoint(ONE) as served:
        served.answer.clear()
        async with verifying(served) as verify:
            waiting = [asyncio.create_task(verify(ONE.sign(claims(sub=f"{number}")))) for number in range(20)]
            await eventually(lambda: served.asked)
            assert not any(each.done() for each in waiting), "the loop goes on meanwhile"
            waiting.pop().cancel()  # somebody who gives up takes nothing from the others
            served.answer.set()
            assert len(await asyncio.gather(*waiting)) == 19
            assert served.asked == 1


@pytest.mark.parametrize(
    ("status", "document", "words"),
    [
        (500, b"", "HTTP Error 500"),
        (200, b"{", "cannot be read"),
        (200, b"\xff", "cannot be read"),
        (200, b"[]", "no list `keys`"),
        (200, b" " * (1 << 20) + b"{}", "more than 1048576 bytes"),
        (200, b'{"keys": {}}', "no list `keys`"),
        (200, b'{"keys": [7, {"kty": "oct", "k": "c2VjcmV0"}]}', "none of the 2 keys"),
        (200, b'{"keys": []}', "it is empty"),
    ],
)
async def test_while_the_keys_are_away_or_broken_those_known_are_used(
    status: int, document: bytes, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "_REST_SECONDS", 0.01)
    two = elliptic("two")
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            await verify(ONE.sign(claims()))
            served.status, served.document = status, document
            asked = served.asked
            while served.asked < asked + 3:
                with pytest.raises(Unauthenticated, match="does not publish"):
                    await verify(two.sign(claims()))
                await asyncio.sleep(0.005)
            assert (await verify(ONE.sign(claims(sub="still")))).principal == f"{NAME}#still"
            (told,) = [each.getMessage() for each in caplog.records]  # once, though it is tried again and again
            assert words in told
            assert "check FABRIC_JWT_JWKS_URL" in told or "let the issuer publish" in told
            assert "those known go on being used" in told
            served.status = 200
            served.publish(two)
            assert await soon(verify, two.sign(claims()))


async def test_before_any_key_was_fetched_nobodys_token_is_called_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_REST_SECONDS", 0.01)
    with endpoint() as served:
        async with verifying(served) as verify:
            with pytest.raises(IssuerUnavailable, match="try again"):
                await verify(ONE.sign(claims()))
            with pytest.raises(Unauthenticated):
                await verify(b"let me in")
            served.publish(ONE)
            assert await soon(verify, ONE.sign(claims()))


async def test_keys_are_renewed_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_REST_SECONDS", 0.01)
    monkeypatch.setattr(jwks, "_RENEW_SECONDS", 0.02)
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            token = ONE.sign(claims())
            first = await verify(token)
            asked = served.asked
            await eventually(lambda: served.asked >= asked + 2)
            assert await verify(token) is first, "the same keys once more change nothing"
            served.publish(elliptic("two"))  # withdrawn: what was stolen with it must not be of use
            asked = served.asked
            await eventually(lambda: served.asked >= asked + 2)
            with pytest.raises(Unauthenticated, match="does not publish"):
                await verify(token)


async def test_keys_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys of ours.json"
    file.write_text(json.dumps({"keys": [ONE.public]}))
    async with verifying(file.as_uri()) as verify:
        assert await verify(ONE.sign(claims()))


async def test_a_pipe_for_keys_is_refused_and_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(pipe := tmp_path / "keys.json")
    async with verifying(pipe.as_uri()) as verify:
        with pytest.raises(IssuerUnavailable):
            await verify(ONE.sign(claims()))
    assert "it is a pipe, and no file" in caplog.text


async def test_a_token_that_names_no_key_is_signed_with_the_only_one() -> None:
    token = ONE.sign(claims(), kid=None)
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            assert await verify(token)
    with endpoint(ONE, elliptic("two")) as served:
        async with verifying(served) as verify:
            with pytest.raises(Unauthenticated, match="by which of the issuer's keys"):
                await verify(token)


async def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_MOST_VERIFIED", 2)
    tokens = [ONE.sign(claims(sub=name)) for name in "abc"]
    with endpoint(ONE) as served:
        async with verifying(served) as verify:
            found = [await verify(token) for token in tokens]
            assert [await verify(token) is each for token, each in zip(tokens[1:], found[1:], strict=True)] == [
                True
            ] * 2
            assert await verify(tokens[0]) is not found[0]


def without(signer: Signer, *members: str, **other: Any) -> Json:
    return {name: value for name, value in {**signer.public, **other}.items() if name not in members}


def test_keys_of_a_set_that_cannot_verify_are_passed_over() -> None:
    odd: list[Any] = [
        None,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": "new", "kid": "new"},
        without(elliptic("x"), "x"),
        without(elliptic("for-secrets"), use="enc"),
        without(elliptic("other"), alg="HS256"),
        without(elliptic("numbered"), kid=7),
        without(elliptic("curve"), crv="P-999"),
        rivest("weak", 1024).public,
    ]
    keys = verifying_keys({"keys": [*odd, ONE.public, without(rivest("r"), "alg", "use")]})
    assert {kid: key.algorithms[0] for kid, key in keys.items()} == {"one": "ES256", "r": "RS256"}
    for each in odd:
        with pytest.raises(ConfigurationError, match=r"none of the 1 keys.*let the issuer publish"):
            verifying_keys({"keys": [each]})


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries({"keys": st.lists(JSON | st.just(ONE.public), max_size=3)}))
def test_whatever_a_key_set_looks_like_it_is_read_or_refused(document: Any) -> None:
    def outcome() -> object:
        try:
            return verifying_keys(document)
        except ConfigurationError as refused:
            return refused.fix

    assert outcome()
