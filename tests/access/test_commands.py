"""`fabric token`, `fabric mount`, `fabric unmount` and `fabric mounts`, beside a worker that serves the agent `access`.

Proves: SE-1 (`fabric token create|list|revoke`), GW-2
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
from cli.command import Done, worker
from cli.inside import fabric_inside
from support.nats_server import private_nats

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Generator[Run]:
    """A command, for a server with the agent."""
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as nats:
        env = {"FABRIC_NATS_URL": nats.url}
        with worker("fabric.access.service:agent", folder=tmp_path_factory.mktemp("access"), env=env):
            yield lambda *arguments: fabric_inside(*arguments, env=env)


def rows(said: Done) -> list[list[str]]:
    """What a table says, word by word."""
    assert said.code == 0, said.err
    return [line.split() for line in said.out.splitlines()]


def test_keys_are_made_listed_and_revoked(fabric: Run) -> None:
    made = fabric("token", "create", "ci", "--agent", "hello", "--role", "dev", "--role", "ops", "--expires", "30d")
    assert made.code == 0, made.err
    token = made.out.strip()
    key_id = token.split("_")[1]
    assert f"key {key_id} of agent:hello, expires in 30d" in made.err
    assert "warning" not in made.err
    person = fabric("token", "create", "ann", "--scope", "mcp:read", "--listing", "search", "--json").json
    assert (person["principal"], person["scopes"], person["listing"]) == ("ann", ["mcp:read"], "search")

    listed = fabric("token", "list")
    heading, *found = rows(listed)
    assert heading == ["ID", "NAME", "PRINCIPAL", "ROLES", "SCOPES", "CREATED", "EXPIRES"]
    assert [each[:3] for each in found] == [[key_id, "ci", "agent:hello"], [person["id"], "ann", "ann"]]
    assert found[0][3:5] == ["dev", "ops"]
    assert found[1][-1] == "never"
    known = fabric("token", "list", "--json")
    assert [each["id"] for each in known.json] == [key_id, person["id"]]
    for said in (listed.out, known.out):
        assert token not in said
        assert person["token"] not in said

    assert fabric("token", "revoke", key_id).out == "revoked the key of agent:hello\n"
    assert fabric("token", "revoke", person["id"], "--json").json["principal"] == "ann"
    fabric("token", "revoke", key_id).refused(2, "no key", "fabric token list")
    assert "fabric token create NAME" in fabric("token", "list").err


def test_a_key_that_opens_nothing_by_the_built_in_policy_is_warned_of(fabric: Run) -> None:
    made = fabric("token", "create", "bob")
    assert (made.code, len(made.out.split())) == (0, 1), "a script still takes the token as it is"
    assert "warning: with neither --agent, --role nor --scope" in made.err
    assert fabric("token", "revoke", made.out.split("_")[1]).code == 0


def test_agents_are_mounted_listed_and_unmounted(fabric: Run) -> None:
    assert (
        fabric("mount", "shop", "hi", "hello", "--tool", "echo", "--tool", "read_*").out == "shop sees hello as hi_…\n"
    )
    assert fabric("mount", "hello", "s", "shop", "--json").json["tools"] is None
    heading, *found = rows(fabric("mounts"))
    assert heading == ["AGENT", "PREFIX", "TARGET", "TOOLS"]
    assert found == [["shop", "hi", "hello", "echo", "read_*"], ["hello", "s", "shop", "*"]]
    assert [each["prefix"] for each in fabric("mounts", "--agent", "shop", "--json").json] == ["hi"]
    fabric("mount", "shop", "hi", "other").refused(2, "something else under the prefix", "fabric unmount shop hi")
    assert fabric("unmount", "shop", "hi").out == "shop does not see hello any more\n"
    assert fabric("unmount", "hello", "s", "--json").json["target"] == "shop"
    fabric("unmount", "shop", "hi").refused(2, "nothing under the prefix", "fabric mounts")
    assert "fabric mount AGENT PREFIX TARGET" in fabric("mounts").err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("token create Two", 4, "cannot name a key"),
        ("token create operator", 4, "principal of the fabric itself"),
        ("token create ci --agent *", 4, "cannot name an agent"),
        ("token create ci --role two\twords", 4, "no role or scope"),
        ("token create ci --expires soon", 2, "no duration"),
        ("token create ci --expires 0s", 4, "greater than 0"),
        ("mount shop a_b hello", 4, "prefix: 'a_b' cannot be a prefix"),
        ("mount shop hi shop", 2, "in itself"),
        ("mounts --agent *", 4, "cannot name an agent"),
    ],
)
def test_a_mistake_is_told_in_words(fabric: Run, arguments: str, code: int, words: str) -> None:
    fabric(*arguments.split(" ")).refused(code, words)


def test_without_the_agent_it_is_told_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabric_sdk.patterns.call.PATIENCE", 0.1)
    with private_nats('jetstream { store_dir: "js" }\n') as nats:
        env = {"FABRIC_NATS_URL": nats.url}
        fabric_inside("token", "list", env=env).refused(3, "fabric up", "fabric.access.service:agent")
