"""`fabric mcp --config`: what each host wants to read, alone on standard output, and it starts what it says.

Proves: TR-2
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from cli.inside import fabric_inside
from support.running import FABRIC

from fabric.stdio.hosts import HOSTS, NAME, Command, HostName

URL = "http://fabric.example/mcp"
MEMBERS = {"vscode": "servers", "zed": "context_servers", "codex": "mcp_servers"}


def entry(host: str, printed: str) -> dict[str, Any]:
    """What the host reads of us."""
    return (tomllib if host == "codex" else json).loads(printed)[MEMBERS.get(host, "mcpServers")][NAME]


def test_every_host_has_a_name() -> None:
    assert set(HOSTS) == set(get_args(HostName))


@pytest.mark.parametrize("host", HOSTS)
def test_the_snippet_starts_the_bridge_to_the_local_fabric(host: str, tmp_path: Path) -> None:
    done = fabric_inside("mcp", "--config", host, "--data", tmp_path / "my data", env={})
    read = entry(host, done.out)
    assert (read["command"], read["args"]) == (str(FABRIC), ["mcp", "--data", str(tmp_path / "my data")])
    assert "env" not in read, "the token is read where the fabric keeps it"
    assert read.get("type") == ("stdio" if host == "vscode" else None)
    assert "belongs into" in done.err


@pytest.mark.parametrize("host", HOSTS)
def test_the_snippet_for_another_gateway_has_its_token(host: str) -> None:
    done = fabric_inside("mcp", "--config", host, "--url", URL, "--token", 't"\\o\x7fk', env={})
    read = entry(host, done.out)
    assert (read["args"], read["env"]) == (["mcp", "--url", URL], {"FABRIC_TOKEN": 't"\\o\x7fk'})
    assert "FABRIC_TOKEN" not in done.err
    without = fabric_inside("mcp", "--config", host, "--url", URL, env={})
    assert entry(host, without.out)["env"].keys() == {"FABRIC_TOKEN"}
    assert "Set FABRIC_TOKEN" in without.err


@pytest.mark.parametrize("url", ["127.0.0.1:8420", "ftp://fabric.example/mcp", ""])
def test_what_is_no_url_is_written_into_no_snippet(url: str) -> None:
    done = fabric_inside("mcp", "--config", "claude", "--url", url, env={})
    done.refused(2, f"{url!r} is no URL of a gateway", "fix: give one like http://")
    assert not done.out


def test_the_folder_is_said_wherever_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for env in ({"FABRIC_DATA": "here"}, {"XDG_STATE_HOME": str(tmp_path)}):
        arguments = entry("claude", fabric_inside("mcp", "--config", "claude", env=env).out)["args"]
        assert Path(arguments[2]).is_relative_to(tmp_path)


def test_an_unknown_host_is_refused_with_those_there_are() -> None:
    done = fabric_inside("mcp", "--config", "emacs", env={})
    assert done.code == 2
    assert not done.out
    assert all(host in done.err for host in HOSTS)


def test_a_path_survives_its_way_through_toml() -> None:
    odd = Command('/home/ü "x"\\\n\t\x7f/fabric', ["mcp", "\U0001f600"], {"A": "b"})
    assert entry("codex", HOSTS["codex"].write(odd)) == odd.entry()
