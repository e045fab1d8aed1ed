"""API keys: what is kept of them, and that every replica knows at once. Proves: SE-1"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from support.nats_server import PrivateNats, private_nats
from support.waiting import eventually

from fabric.identity.identity import Identity
from fabric.identity.keys import Key, KeyStore, KnownKeys, Name, Word, fingerprint, new_key
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import UnknownName
from fabric_sdk.contracts.subjects import checked_agent_name


@asynccontextmanager
async def gateway(nats: PrivateNats) -> AsyncGenerator[KnownKeys]:
    """The keys as one more gateway knows them, with a connection of its own."""
    async with Fabric.connect(nats.url) as fabric:
        keys = KnownKeys(fabric.jetstream, lambda: None)
        running = asyncio.create_task(keys.run())
        try:
            await asyncio.wait_for(keys.ready.wait(), 10)
            yield keys
        finally:
            await end([running])


def holder(keys: KnownKeys, token: str) -> Identity | None:
    return keys.holder(token.encode(), fingerprint(token.encode()))


async def test_a_key_opens_every_gateway_until_it_is_revoked(nats: PrivateNats, fabric: Fabric) -> None:
    store = KeyStore(fabric.jetstream)
    (early, early_token), (late, late_token) = new_key("ann", roles=["dev"]), new_key("ci", agent="shop")
    await store.add(early)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(gateway(nats)) for _ in range(3)]
        assert [holder(each, early_token) for each in replicas] == [early.identity] * 3, "who comes late knows all"
        await store.add(late)
        await eventually(lambda: all(holder(each, late_token) == late.identity for each in replicas))
        assert await store.all() == [early, late]
        revoked = time.monotonic()
        assert await store.remove(early.id) == early
        await eventually(lambda: not any(holder(each, early_token) for each in replicas))
        assert time.monotonic() - revoked < 1.0
        assert all(holder(each, late_token) for each in replicas)
        assert await store.all() == [late]
        for gone in (early.id, "0" * 16, "*", ">", "a.b", ""):
            with pytest.raises(UnknownName, match="fabric token list"):
                await store.remove(gone)


async def test_of_two_that_revoke_a_key_neither_fails(fabric: Fabric) -> None:
    store = KeyStore(fabric.jetstream)
    key, _ = new_key("ann")
    await store.add(key)
    done = await asyncio.gather(*(store.remove(key.id) for _ in range(5)), return_exceptions=True)
    assert key in done
    assert all(each == key or isinstance(each, UnknownName) for each in done), done
    assert await store.all() == []


async def test_gateways_follow_through_a_crash_of_the_broker(nats: PrivateNats, fabric: Fabric) -> None:
    store = KeyStore(fabric.jetstream)
    (key, token), (other, other_token) = new_key("ann"), new_key("bob")
    await store.add(key)
    async with gateway(nats) as keys:
        nats.kill()
        assert holder(keys, token) == key.identity, "what is known stays known"
        nats.start()
        await store.remove(key.id)
        await store.add(other)
        await eventually(lambda: holder(keys, other_token) and not holder(keys, token))


def test_the_secret_is_kept_nowhere(tmp_path: Path) -> None:
    async def keep() -> None:
        async with Fabric.connect(nats.url) as fabric:
            await KeyStore(fabric.jetstream).add(key)

    key, token = new_key("ann", scopes=["mcp:read"], seconds=60)
    secret = token.split("_", 2)[2]
    with private_nats(f'jetstream {{ store_dir: "{tmp_path}", sync_interval: always }}\n') as nats:
        asyncio.run(keep())
        on_disk = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert key.hash.encode() in on_disk, "what is looked at is where keys are"
    assert secret.encode() not in on_disk
    assert secret not in f"{key!r}{key.summary()}{key.identity}"
    assert "hash" not in key.summary()


async def test_what_is_no_row_of_ours_opens_nothing_and_hides_nothing(nats: PrivateNats, fabric: Fabric) -> None:
    store, rows = KeyStore(fabric.jetstream), subjects.access("key")
    (key, token), (broken, broken_token) = new_key("ann"), new_key("bob")
    for each in (broken, key):
        await store.add(each)
    async with gateway(nats) as keys:
        assert holder(keys, broken_token)
        for number, odd in enumerate(({**broken.model_dump(mode="json"), "hash": "odd"}, 7, None, {"id": 1}, [])):
            await fabric.jetstream.store(f"{rows}{number or broken.id}", Body(odd))
        await fabric.jetstream.store(f"{rows}x", Body(encoded=b"odd"))
        await eventually(lambda: not holder(keys, broken_token), what="the end of a key whose row was broken")
        assert holder(keys, token) == key.identity
        assert await store.all() == [key]


def test_a_key_is_of_a_person_or_of_an_agent() -> None:
    person, agent = new_key("ann@example.com", roles=["b", "a", "b"])[0], new_key("ci", agent="shop")[0]
    assert (person.principal, person.kind, person.identity.agent) == ("ann@example.com", "human", None)
    assert (agent.principal, agent.kind, agent.identity.agent) == ("agent:shop", "agent", "shop")
    assert (person.roles, person.identity.expires) == (("a", "b"), float("inf"))
    assert new_key("ann", seconds=60)[0].identity.expires == pytest.approx(time.time() + 60, abs=5)


def test_no_two_keys_are_the_same_and_only_the_whole_token_opens() -> None:
    made = [new_key("ann") for _ in range(1000)]
    assert len({key.id for key, _ in made}) == len({token for _, token in made}) == 1000
    assert {len(token) for _, token in made} == {len("fab_") + 16 + 1 + 43}


@given(st.text() | st.sampled_from(["operator", "anonymous", "agent:shop", "Ann", "a b", ".", "-a", "a\n", "é"]))
def test_no_name_is_anybody_elses_principal(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        return
    assert name not in ("operator", "anonymous")
    assert not {":", "#", " ", "\n"} & set(name)


@pytest.mark.parametrize("word", ["", "two words", 'quo"te', "back\\slash", "é", "x" * 129, "a\n"])
def test_a_role_that_could_not_stand_in_a_header_is_none(word: str) -> None:
    with pytest.raises(ValidationError, match="no role or scope"):
        TypeAdapter(Word).validate_python(word)
    with pytest.raises(ValidationError):
        new_key("ann", roles=[word])


def test_an_agents_key_needs_an_agents_name() -> None:
    assert checked_agent_name("shop")
    with pytest.raises(ValidationError, match="cannot name an agent"):
        new_key("ann", agent="Shop!")


def test_a_row_reads_as_it_was_written() -> None:
    key, _ = new_key("ann", agent="shop", roles=["a"], scopes=["b"], seconds=5, listing="search")
    assert Key.model_validate(key.model_dump(mode="json")) == key
