"""What a pool shall serve, named in every right and wrong way. Proves: RT-6."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from cli.command import BARE, fabric

from fabric.pool.target import load
from fabric_sdk import Agent
from fabric_sdk.contracts.description import checked_traits
from fabric_sdk.contracts.errors import ConfigurationError

AGENT = "from fabric_sdk import Agent\n"
NOBODY = {"FABRIC_NATS_URL": "nats://127.0.0.1:1"}
"""What is wrong with a target is said before a broker is looked for."""

WRONG = {
    "no target": ("", "", "no target"),
    "no file": ("", "nowhere.py", "there is no file nowhere.py"),
    "a folder": ("", "./", "there is no file ./"),
    "no module": ("", "nowhere_at_all:agent", "there is no module 'nowhere_at_all'"),
    "no package": ("", "nowhere_at_all.inside:agent", "there is no module 'nowhere_at_all.inside'"),
    "no Python": ("def f(:\n", "server.py", "server.py is not valid Python: invalid syntax (line 1)"),
    "no text": ("\0", "server.py", "server.py is not valid Python"),
    "an exception": ("\n1 / 0\n", "server.py", "server.py cannot be imported: ZeroDivisionError: division by zero ("),
    "an exit": ("raise SystemExit(3)\n", "server.py", "server.py cannot be imported: SystemExit: 3"),
    "a missing library": ("import nowhere_at_all\n", "server.py", "ModuleNotFoundError: No module named 'nowhere_at"),
    "no such name": (AGENT, "server.py:agent", "server.py:agent: there is no 'agent' in server"),
    "no such part": (AGENT, "server.py:Agent.nothing", "there is no 'nothing' in Agent"),
    "none of the usual names": ("thing = 1\n", "server.py", "server.py has none of agent, server, mcp, app"),
    "a number": ("agent = 5\n", "server.py:agent", "server.py:agent is of type int, which cannot be served"),
    "a class": (AGENT, "server.py:Agent", "server.py:Agent is of type type, which cannot be served"),
    "a factory that wants": ("def make(colour): ...\n", "server.py:make", "is a function that wants 'colour'"),
    "a factory that fails": ("def make(): 1 / 0\n", "server.py:make", "ZeroDivisionError"),
    "a factory of nothing": (
        "def make(): ...\n",
        "server.py:make",
        "server.py:make is of type NoneType, which cannot be",
    ),
    "a bad name": (AGENT + "agent = Agent('My Agent')\n", "server.py", "'My Agent' cannot name an agent"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder of its own, with what an import leaves behind undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in {"server"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_target_is_told_in_one_sentence(here: Path, wrong: str) -> None:
    code, target, sentence = WRONG[wrong]
    (here / "server.py").write_text(code)
    with pytest.raises(ConfigurationError) as raised:
        load(target)
    said = str(raised.value)
    assert "\n" not in said
    assert sentence in said


@pytest.mark.parametrize(
    "target", ["server.py", "./server.py:agent", "server", "server:agent", "server:make", "{}/server.py:make"]
)
def test_a_file_or_a_module_an_object_or_a_function_that_makes_one_are_served(here: Path, target: str) -> None:
    (here / "server.py").write_text(AGENT + "agent = Agent('mine')\ndef make(): return agent\n")
    served = load(target.format(here))
    assert isinstance(served, Agent)
    assert served.name == "mine"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (
            ("worker", "server.py", "-n", "3"),
            "\n1 / 0\n",
            ("server.py cannot be imported", "ZeroDiv", "line 2"),
        ),
        (
            ("worker", "server.py"),
            "import nowhere_at_all\n",
            ("No module named 'nowhere_at_all'", "fix: install it into the environment"),
        ),
        (("worker", "nowhere.py"), "", ("there is no file nowhere.py", "check the path")),
        (("worker", "server.py", "--name", "My Agent"), "", ("'My Agent' cannot name an agent", "lower-case")),
        (("worker", "server.py", "-n", "0"), "", ()),
    ],
    ids=["broken", "library", "missing", "name", "number"],
)
def test_the_command_says_it_once_for_all_processes_and_ends_with_code_2(
    here: Path, command: tuple[str, ...], code: str, words: tuple[str, ...]
) -> None:
    (here / "server.py").write_text(code)
    done = fabric(*command, env=NOBODY, cwd=here)
    if words:
        done.refused(2, *words)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert BARE.keys().isdisjoint(NOBODY)


async def test_what_a_server_of_another_library_can_do_is_said_for_it(here: Path) -> None:
    (here / "server.py").write_text("from mcp.server import MCPServer\nserver = MCPServer('theirs')\n")
    served = load("server.py", traits=checked_traits(["draw"], {"team": "art"}))
    described = await served.describe()
    assert (described.name, described.capabilities, described.labels) == ("theirs", ["draw"], {"team": "art"})
