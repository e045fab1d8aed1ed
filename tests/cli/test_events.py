"""`fabric events` and `fabric events schemas`, as people and scripts use them.

Proves: EV-2, EV-3, EV-4, EV-5, EV-6
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.nats_server import PrivateNats, private_nats
from support.running import FABRIC

from cli.command import BARE, Done, started
from cli.inside import fabric_inside

pytestmark = pytest.mark.timeout(120)

SCHEMA = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}

REFUSED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "no topic": ("events publish a..b x=1", 2, ("'a..b' is no topic",)),
    "no data": ("events publish a.b word", 2, ("the data is not JSON", "name=value")),
    "no pairs": ("events publish a.b x=1 word", 2, ("'word' is not name=value",)),
    "no pattern": ("events tail a..b", 2, ("'a..b' names no topics",)),
    "no beginning of a tail": ("events tail --since yesterday", 2, ("'yesterday' is no time",)),
    "no beginning": ("events replay --since yesterday", 2, ("'yesterday' is no time", "10m", "2026-12-24T18:00")),
    "no end": ("events replay --until then", 2, ("'then' is no time",)),
    "no file": ("events schemas register a.b nowhere.json", 1, ("nowhere.json", "No such file")),
    "no JSON": (f"events schemas register a.b {shlex.quote(__file__)}", 2, ("is not JSON", "JSON Schema")),
    "no schema": ("events schemas show a.b", 2, ("topic 'a.b' has no schema", "there are: ")),
    "no topics": ("events schemas list a..b", 2, ("'a..b' names no topics",)),
}


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as nats:
        yield nats


def run(nats: PrivateNats, *arguments: str | Path, text: str = "") -> Done:
    return fabric_inside(*arguments, env={"FABRIC_NATS_URL": nats.url}, text=text)


def good(nats: PrivateNats, *arguments: str | Path) -> Done:
    done = run(nats, *arguments)
    assert done.code == 0, done.err
    return done


def replayed(nats: PrivateNats, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in good(nats, "events", "replay", "--json", *arguments).out.splitlines()]


def test_a_mistake_gets_one_clear_error_and_its_exit_code(nats: PrivateNats) -> None:
    for name, (command, code, words) in REFUSED.items():
        done = run(nats, *shlex.split(command))
        assert not done.out, name
        done.refused(code, *words)


@pytest.mark.parametrize("option", ["--filter", "--transform"])
def test_an_expression_that_is_none_is_refused(nats: PrivateNats, option: str) -> None:
    done = run(nats, "events", "replay", option, "data.(")
    assert (done.code, "'data.(' is no CEL expression" in done.err) == (2, True)


def test_what_happened_is_published_and_replayed(nats: PrivateNats) -> None:
    good(nats, "events", "publish", "orders.created", "id=1", "total=120", "--subject", "order/1")
    middle = datetime.now(UTC)
    published = good(nats, "events", "publish", "orders.paid", '{"id": 1, "total": 80}', "--id", "p1", "--json").json
    assert good(nats, "events", "publish", "orders.paid", "id=1", "total=80", "--id", "p1").out == "p1\n", "once more"
    assert run(nats, "events", "publish", "other", "-", text="[1, 2]").code == 0

    every = replayed(nats, "orders.*")
    assert [(each["topic"], each["data"]["total"]) for each in every] == [("orders.created", 120), ("orders.paid", 80)]
    assert every[1] == published, "what was printed is what was stored"
    created = {name: every[0][name] for name in ("type", "source", "subject", "dataschema")}
    assert created == {"type": "orders.created", "source": "/clients", "subject": "order/1", "dataschema": None}
    place = str(published["sequence"])
    for arguments, topics in (
        (("--since", place), ["orders.paid", "other"]),
        (("--until", place), ["orders.created", "orders.paid"]),
        (("--since", middle.isoformat(), "--until", "0s"), ["orders.paid", "other"]),
        (("--until", middle.isoformat()), ["orders.created"]),
        (("--since", "1h", "--filter", "has(data.total) && data.total > 100"), ["orders.created"]),
        (("nothing.>",), []),
    ):
        assert [each["topic"] for each in replayed(nats, *arguments)] == topics, arguments
    line = good(nats, "events", "replay", "orders.paid", "--transform", "{'double': data.total * 2}").out
    assert line == f'orders.paid {published["time"]} /clients p1 - {{"double": 160}}\n'
    assert f" /clients {every[0]['id']} order/1 " in good(nats, "events", "replay", "orders.created").out
    shown = replayed(nats, "orders.paid", "--transform", "[timestamp('2026-01-01T00:00:00Z'), b'x']")
    assert shown[0]["data"] == ["2026-01-01 00:00:00+00:00", "b'x'"], "what JSON has not is shown as text"
    partly = good(nats, "events", "replay", "--transform", "data.total")
    assert len(partly.out.splitlines()) == 2
    assert "does not fit event" in partly.err, "the others are shown"


def test_a_replay_at_original_speed_keeps_the_distances(nats: PrivateNats) -> None:
    times: list[float] = []
    for number in range(2):
        good(nats, "events", "publish", "slow.x", f"n={number}")
        time.sleep(0.5)
    arguments = ["events", "replay", "slow.*", "--original-speed", "--json"]
    command = subprocess.Popen(
        [FABRIC, *arguments], env={**BARE, "FABRIC_NATS_URL": nats.url}, stdout=subprocess.PIPE, text=True
    )
    with command:
        assert command.stdout is not None
        said: list[dict[str, Any]] = []
        for line in command.stdout:
            times.append(datetime.now(UTC).timestamp())
            said.append(json.loads(line))
    assert command.returncode == 0
    apart = [datetime.fromisoformat(each["time"]).timestamp() for each in said]
    assert times[1] - times[0] > 0.7 * (apart[1] - apart[0]) > 0.1


def test_tail_prints_events_as_they_come_and_ends_well(nats: PrivateNats, tmp_path: Path) -> None:
    evil = "\x1b[31m\x9b2J\u202e"
    env = {"FABRIC_NATS_URL": nats.url}
    with (
        started("events", "tail", "news.*", "--filter", "data.n > 1", folder=tmp_path, env=env) as people,
        started("events", "tail", "news.*", "--json", folder=tmp_path, env=env) as scripts,
    ):
        for each in (people, scripts):
            each.until_said("waiting for events")
        for number in (1, 2):
            good(nats, "events", "publish", "news.x", f"n={number}", f"said={evil}")
        for each in (people, scripts):
            each.until_said("news.x")
        scripts.until_said("news.x", times=4)
        assert people.stop(signal.SIGINT) == 0
        assert scripts.stop(signal.SIGTERM) == 0
    (line,) = people.said.splitlines()[1:]
    topic, _, source, _, _, data = line.split(" ", 5)
    assert (topic, source, data) == ("news.x", "/clients", r'{"n": 2, "said": "\u001b[31m\x9b2J\u202e"}')
    lines = [json.loads(line)["data"] for line in scripts.said.splitlines()[1:]]
    assert lines == [{"n": 1, "said": evil}, {"n": 2, "said": evil}], "JSON tells all of it"
    assert not [odd for odd in evil if odd > "~" or odd < " " if odd in people.said + scripts.said]


def test_a_tail_begins_in_the_past_and_a_group_goes_on_where_it_was(nats: PrivateNats, tmp_path: Path) -> None:
    env = {"FABRIC_NATS_URL": nats.url}
    for number in (1, 2):
        good(nats, "events", "publish", "past.x", f"n={number}")
    tail = ("events", "tail", "past.*", "--json", "--since", "1h")
    with (
        started(*tail, folder=tmp_path, env=env) as alone,
        started(*tail, "--group", "g", folder=tmp_path, env=env) as g,
    ):
        for each in (alone, g):
            each.until_said("past.x", times=4)
            assert each.stop(signal.SIGINT) == 0
    good(nats, "events", "publish", "past.x", "n=3")
    with started(*tail, "--group", "g", folder=tmp_path, env=env) as later:
        later.until_said("past.x", times=2)
        assert later.stop(signal.SIGINT) == 0
    (line,) = later.said.splitlines()[1:]
    assert json.loads(line)["data"] == {"n": 3}


def test_a_pipe_that_closes_ends_it_quietly(nats: PrivateNats) -> None:
    for number in range(3):
        good(nats, "events", "publish", "piped.x", f"n={number}")
    command = f"set -o pipefail; {shlex.quote(str(FABRIC))} events tail piped.* | head -1"
    env = {**BARE, "FABRIC_NATS_URL": nats.url}
    tail = subprocess.Popen(["bash", "-c", command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with tail:
        assert tail.stderr is not None
        assert "waiting" in tail.stderr.readline()
        for number in range(3):
            good(nats, "events", "publish", "piped.x", f"n={number}")
        out, err = tail.communicate(timeout=20)
    assert (tail.returncode, out.count("piped.x"), err) == (0, 1, "")


def test_schemas_are_registered_shown_and_kept_to(nats: PrivateNats, tmp_path: Path) -> None:
    file = tmp_path / "user.json"
    file.write_text(json.dumps(SCHEMA))
    assert good(nats, "events", "schemas", "register", "users.new", file).out == "users.new version 1, full\n"
    wider = SCHEMA | {"properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}
    file.write_text(json.dumps(wider))
    registered = good(nats, "events", "schemas", "register", "users.new", file, "--json").json
    assert (registered["version"], registered["schema"]) == (2, wider)
    assert good(nats, "events", "schemas", "show", "users.new").json == wider
    assert good(nats, "events", "schemas", "show", "users.new", "--version", "1").json == SCHEMA
    listed = good(nats, "events", "schemas", "list", "users.*", "--json").json
    assert [(each["topic"], each["version"], each["compatibility"]) for each in listed] == [
        ("users.new", 1, "full"),
        ("users.new", 2, "full"),
    ]
    run(nats, "events", "schemas", "show", "users.new", "--version", "7").refused(2, "has no version 7", "there are")
    file.write_text(json.dumps({"type": "object", "properties": {"id": {"type": "string"}}}))
    broken = run(nats, "events", "schemas", "register", "users.new", file)
    broken.refused(2, "version 3 is not full-compatible", "/properties/id/type", "publish on a new topic")
    run(nats, "events", "publish", "users.new", "id=x").refused(2, "does not fit fabric:schemas/users.new/2")
    assert replayed(nats, "users.new") == []
    published = good(nats, "events", "publish", "users.new", "id=1", "--json").json
    assert published["dataschema"] == "fabric:schemas/users.new/2"
