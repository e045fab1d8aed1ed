"""`fabric read`, `prompt`, `conversation` and `env`: what stands beside tools, and how scripts find it.

Proves: OP-1, PT-1, RT-8
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cli.command import BARE, Up
from cli.inside import fabric_inside
from fabric.cli.offers import own_uri
from fabric_sdk.contracts.errors import ConfigurationError

REFUSED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "a URI without an agent": ("read notes://monday", 2, ("names no agent", "notes://hello/monday")),
    "a URI of nobody": ("read notes://helo/monday", 2, ("no agent 'helo'", "did you mean hello?")),
    "no such resource": ("read other://hello/monday", 2, ("has no resource 'other://monday'",)),
    "no such prompt": ("prompt hello nothing", 2, ("has no prompt 'nothing'", "fix: there are: greet")),
    "no pair for a prompt": ("prompt hello greet Ann", 2, ("'Ann' is not name=value", "fix: write name=Ann")),
    "no name of a prompt": ("prompt hello", 2, ("no tool is named",)),
    "no argument": ("prompt hello greet", 2, ("invalid arguments for prompt greet", "name")),
    "no id": ("conversation show a.b", 2, ("'a.b' cannot stand in a subject",)),
    "no entry": ("conversation append c-1 word", 2, ("the data is not JSON",)),
    "an old version": ("conversation append c-0 {} --expected 7", 1, ("Somebody else wrote",)),
}


def good(node: Up, *arguments: str) -> str:
    done = fabric_inside(*arguments, env=node.env)
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_mistake_gets_one_clear_error_and_its_exit_code(node: Up, wrong: str) -> None:
    command, code, words = REFUSED[wrong]
    fabric_inside(*command.split(), env=node.env).refused(code, *words)


def test_a_resource_is_read_by_the_uri_that_mcp_clients_see(node: Up) -> None:
    assert good(node, "read", "notes://hello/monday") == "note of monday\n"
    assert '"mimeType": "text/plain"' in good(node, "read", "notes://hello/monday", "--json")


def test_a_prompt_is_filled_in_with_text(node: Up) -> None:
    for words in (("hello", "greet"), ("hello_greet",)):
        assert good(node, "prompt", *words, "name=5") == "user: Say hello to 5.\n"


def test_a_conversation_is_continued_and_shown(node: Up) -> None:
    version = good(node, "conversation", "append", "c-7", "role=user", "text=hi").strip()
    good(node, "conversation", "append", "c-7", '"bye"', "--expected", version)
    *_, first, second = good(node, "conversation", "show", "c-7").splitlines()
    assert (first, second) == ('{"role": "user", "text": "hi"}', '"bye"')
    assert '"entries": []' in good(node, "conversation", "show", "c-8", "--json")


def test_a_script_finds_the_fabric_by_what_env_prints(node: Up, data: Path) -> None:
    """In a shell, as the examples say: nothing of it may mean anything to the shell."""
    script = 'eval "$(fabric env)"; echo "$FABRIC_MCP_URL"; echo "$FABRIC_TOKEN"; echo "$FABRIC_NATS_URL"'
    path = f"{Path(sys.executable).parent}{os.pathsep}{BARE['PATH']}"
    env = {**BARE, "FABRIC_DATA": str(data), "PATH": path}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    url, token, bus = done.stdout.splitlines()
    assert (url, token, bus) == (node.mcp_url, node.token, node.nats_url)
    assert httpx.post(url, json={}, headers={"authorization": f"Bearer {token}"}).status_code == 400
    assert "export" not in good(node, "env", "--json")


@pytest.mark.parametrize(
    ("uri", "own"),
    [
        ("notes://hello/monday", ("hello", "notes://monday")),
        ("probe://probe//tree/a/b", ("probe", "probe:///tree/a/b")),
        ("fabric://probe/urn:probe:one", ("probe", "urn:probe:one")),
    ],
)
def test_a_uri_begins_with_its_agent(uri: str, own: tuple[str, str]) -> None:
    assert own_uri(uri) == own


@pytest.mark.parametrize("uri", ["", "notes", "notes://", "notes://monday", "notes:///monday", "urn:a:b"])
def test_a_uri_without_an_agent_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="names no agent"):
        own_uri(uri)
