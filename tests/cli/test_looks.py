"""What the command line makes of schemas, names that are near, odd characters, and instances that disagree.

Proves: OP-1, CM-1
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

import pytest
from registry.conftest import until

from cli.command import Done, Up, fabric, up, worker
from cli.inside import fabric_inside
from fabric.cli import calling
from fabric.cli.connection import there_are
from fabric.cli.console import print_json, seen, table
from fabric.cli.ps import disagreements
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import ConfigurationError

AGENT = """
from typing import Literal

from fabric_sdk import Agent

agent = Agent("typed-agent", version="VERSION")


@agent.tool(description="\\x1b[2J\\x9b2J\\u202eDone.")
async def show(text: str, either: str | None = None, number: int | str = 0, size: Literal["1", "2"] = "1") -> list:
    return [text, either, number, size]
"""
NAME = "typed-agent"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    """A fabric with two instances of an agent, and one more of another version, which is the newest."""
    folder = tmp_path_factory.mktemp("looks")
    for version in ("1.0.0", "2.0.0"):
        tool = "" if version == "1.0.0" else "\n\n@agent.tool\nasync def new() -> int:\n    return 1\n"
        (folder / f"v{version[0]}.py").write_text(AGENT.replace("VERSION", version) + tool)
    with (
        up("--ephemeral", "--processes", "2", folder / "v1.py", folder=folder) as node,
        worker(folder / "v2.py", folder=folder, env=node.env),
    ):
        yield node


def run(node: Up, *arguments: str, **env: str) -> Done:
    return fabric(*arguments, env={**node.env, "COLUMNS": "80", **env})


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ps", ("BUSY: calls in hand", "with a ~ it does not answer", "its last heartbeat")),
        ("top", ("QUEUE: tasks", "@NAME", "`group NAME`", "AGENT-REACTION")),
        (
            "trace",
            ("`last`: what was begun last", "first 4 digits", "come through the gateway", "`fabric call` goes past"),
        ),
    ],
)
def test_help_says_what_a_word_on_the_screen_means(command: str, words: tuple[str, ...]) -> None:
    said = " ".join(re.sub(r"[│\s]+", " ", fabric_inside(command, "--help", env={"COLUMNS": "160"}).out).split())
    assert not [word for word in words if word not in said], said


async def test_one_newer_instance_hides_nothing_and_is_warned_of(node: Up) -> None:
    listed = run(node, "ps")
    assert listed.code == 0
    assert "warning: 1 of 3 instances of typed-agent (1 of version 2.0.0)" in listed.err
    assert [tool["name"] for tool in run(node, "tools", NAME, "--json").json] == ["show"]
    (found,) = (finding for finding in run(node, "doctor", "--json").json if finding["check"] == "agents")
    assert (found["state"], "1 of version 2.0.0" in found["detail"]) == ("warning", True)


def test_ps_takes_a_line_of_80_columns_for_each_instance(node: Up) -> None:
    listed = run(node, "ps")
    heading, *rows = listed.out.splitlines()
    assert heading.split() == ["AGENT", "VERSION", "INSTANCE", "STATE", "BUSY", "SERVED", "FAILED", "PROCESS", "UP"]
    assert max(map(len, rows)) <= 80, listed.out
    full = {beat["instance"] for agent in run(node, "ps", "--json").json["agents"] for beat in agent["instances"]}
    assert {each[:8] for each in full} == {row.split()[2] for row in rows}
    assert len(rows) == len(full), listed.out


@pytest.mark.parametrize("command", [("ps",), ("tools",), ("doctor",)])
async def test_no_control_character_of_others_reaches_the_terminal(node: Up, command: tuple[str, ...]) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202e\r\n"
    beat = {"agent": "evil", "instance": "e1", "version": evil, "digest": "d", "host": evil, "pid": 1}
    beats = [beat | {"started": 1.0, "capacity": 1}, beat | {"started": 1.0, "capacity": 1, "instance": "e2"}]
    beats[1]["digest"] = "other"
    async with Fabric.connect(node.nats_url) as fabric:
        for each in beats:
            subject = subjects.beat("evil", str(each["instance"]))
            await fabric.transport.publish(Message(subject, Body(each)))
        await until(lambda: agents(fabric), lambda names: "evil" in names)
    for arguments in (command, (*command, "--json")):
        done = run(node, *arguments)
        said = (done.out + done.err).replace("\n", "")
        assert not [character for character in said if ord(character) < 32 or 127 <= ord(character) < 160], said
        assert "\u202e" not in said
        if "--json" in arguments:
            assert done.json


async def agents(fabric: Fabric) -> list[str]:
    return [agent["name"] for agent in (await fabric.agent("registry").call("catalogue"))["agents"]]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((NAME, "show", "text=5"), ["5", None, 0, "1"]),
        ((f"{NAME}.show", "text=true", "either=null", "number=5"), ["true", None, 5, "1"]),
        ((f"{NAME}_show", "text=[1]", "either=5", "number=five", "size=2"), ["[1]", "5", "five", "2"]),
        ((f"{NAME}_show", '{"text": "x"}'), ["x", None, 0, "1"]),
    ],
)
def test_an_argument_is_what_the_tool_takes(node: Up, words: tuple[str, ...], shown: list[Any]) -> None:
    done = run(node, "call", *words, "--key", "k")
    assert done.code == 0, done.err
    assert done.json == shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("call", "typd-agent", "show"), f"did you mean {NAME}?"),
        (("call", NAME, "shwo", "text=x"), "did you mean show?"),
        (("call", f"{NAME}_shwo", "text=x"), "did you mean show?"),
        (("call", NAME), f"`fabric tools {NAME}` lists"),
        (("tools", "typd-agent"), f"did you mean {NAME}?"),
    ],
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(
    node: Up, words: tuple[str, ...], said: str
) -> None:
    run(node, *words).refused(2, said)


def test_doctor_tells_of_variables_without_effect_and_a_root_that_is_not_there(node: Up) -> None:
    found = {each["check"]: each for each in run(node, "doctor", "--json", FABRIC_PROT="1", FABRIC_ROOT="no").json}
    assert (found["settings"]["state"], found["agents"]["state"]) == ("warning", "warning")
    assert "FABRIC_PROT" in found["settings"]["detail"]
    assert "FABRIC_PORT" in found["settings"]["fix"]
    assert "FABRIC_ROOT is 'no'" in found["agents"]["detail"]


# without a fabric


def test_a_tool_is_named_in_one_word_or_two() -> None:
    assert [calling.wanted(*words) for words in (("a", ["t", "x=1"]), ("a.t", ["x=1"]), ("a_t", ["x=1"]))] == [
        ("a", "t", ["x=1"])
    ] * 3
    assert calling.wanted("a-b_c_d.e", []) == ("a-b", "c_d.e", [])
    with pytest.raises(ConfigurationError, match="no tool is named"):
        calling.wanted("a", [])


STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (None, "5", 5),
        (None, "five", "five"),
        ({}, "5", 5),
        (STRING, "5", "5"),
        (STRING, "null", "null"),
        (STRING, '"5"', "5"),
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, "5.5", 5.5),
        ({"type": "boolean"}, "true", True),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "1", "1"),
        ({"anyOf": [STRING, {"type": "null"}]}, "7", "7"),
        ({"anyOf": [STRING, {}]}, "7", 7),
        ({"oneOf": [STRING, {"type": "number"}]}, "7", 7),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"const": "1"}, "1", "1"),
        ({"$ref": "#/$defs/Text"}, "1", "1"),
        ({"$ref": "#/$defs/Loop"}, "1", 1),
        ({"$ref": "#/$defs/None"}, "1", 1),
        (True, "1", 1),
        ({"type": "array"}, "[1]", [1]),
        (STRING, "[1]", "[1]"),
    ],
)
def test_a_value_is_json_where_the_schema_takes_it(schema: Any, text: str, value: Any) -> None:
    definitions = {"Text": STRING, "Loop": {"$ref": "#/$defs/Loop"}}
    whole = {"properties": {"x": schema}, "$defs": definitions}
    assert calling.arguments([f"x={text}"], whole) == {"x": value}


def test_names_that_are_near_come_first_and_never_too_many() -> None:
    assert there_are("helo", ["hello", "other"]) == "did you mean hello?"
    assert there_are("x", ["b", "a"]) == "there are: a, b"
    assert there_are("x", []) == "there are: none"
    assert there_are("zzz", [f"a{number}" for number in range(12)]).endswith(", and 2 more")


@pytest.mark.parametrize("odd", ["\x1b[2J", "\x07", "\x9b", "\u202e", "\u2066", "\x7f", "\r", "\n", "\x00", "\ud800"])
def test_what_cannot_be_seen_is_spelled_out(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert seen(f"a{odd}é 漢").isprintable()
    assert seen(f"a{odd}é 漢").endswith("é 漢")
    print_json({odd: [odd]})
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert json.loads(said) == {odd: [odd]}


def test_a_program_reads_each_row_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table(("ID", "WHAT"), [("1", "x" * 200), ("2", "access/create_token " * 9)])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ID", "1", "2"]


def test_draining_instances_are_not_counted_as_disagreeing() -> None:
    beat = {"agent": "a", "instance": "i", "version": "1", "host": "h", "pid": 1, "started": 1.0, "capacity": 1}
    for state, count in (("ready", 1), ("draining", 0)):
        instances = [beat | {"digest": "new"}, beat | {"digest": "old", "state": state}]
        assert len(disagreements([{"name": "a", "digest": "new", "instances": instances}])) == count
