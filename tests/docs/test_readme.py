"""README.md does what it says, when it is typed as it stands.

Only two things are added to what a reader types: a free port, and a data folder of the test's own. So the commands
find the fabric as they do for a reader: by the data folder, with no address given.

Proves: TR-1 (an MCP host needs the URL and the token), RT-6 (a file becomes a pool), CM-1 (who is there, and what they
offer), PT-1.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastmcp
import httpx
import pytest
from support.running import FABRIC, Running, wait_until

from docs.pages import ROOT, Typed, blocks, read, typed
from fabric.gateway.app import PATH
from fabric.gateway.legacy import VERSIONS
from fabric.gateway.modern import VERSION
from fabric.settings import Settings

README = read("README.md")
FIRST_MINUTE, POOL = (typed(block) for block in blocks(README, "console"))
(CLIENT,) = blocks(README, "json")
(CURL,) = blocks(README, "sh")
GREETER, SCRIPT = blocks(README, "python")


@dataclass
class Shell:
    """A reader's terminal."""

    folder: Path
    data: Path

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
        return inherited | {"FABRIC_DATA": str(self.data), "COLUMNS": "200"}

    def type(self, command: str) -> str:
        """Run it; what it printed."""
        ended = subprocess.run(_program(command), cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        return ended.stdout

    def bash(self, script: str) -> str:
        """Run lines of shell, in which `fabric` and `python` are those that the tests run with; what they printed."""
        env = self.env | {"PATH": f"{FABRIC.parent}{os.pathsep}{os.environ['PATH']}"}
        ended = subprocess.run(["bash", "-ec", script], cwd=self.folder, env=env, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    @contextmanager
    def keep(self, command: str, *more: str, ready: Path, log: Path) -> Generator[subprocess.Popen[bytes]]:
        """Have it run until the end of the block, when SIGTERM must end it with code 0."""
        words = [*_program(command), "--ready-file", str(ready), *more]
        with log.open("wb") as output:
            process = subprocess.Popen(words, cwd=self.folder, env=self.env, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: ready.exists() or process.poll() is not None, seconds=45, what=command)
            assert ready.exists(), f"{command}: {log.read_text()}"
            yield process
            process.terminate()
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def _program(command: str) -> list[str]:
    """The words of a command, with the `fabric` of the environment that the tests run in."""
    first, *rest = Typed(command, "").words
    assert first in ("fabric", ".venv/bin/fabric"), command
    return [str(FABRIC), *rest]


def recipe(target: str) -> str:
    """What `make` runs for a target, its variables put in, and nothing for those that a reader may give."""
    makefile = read("Makefile")
    variables = dict(re.findall(r"^(\w+) [?:]?= (.*)$", makefile, re.MULTILINE))
    (line,) = re.findall(rf"^{target}:.*\n\t(.*)$", makefile, re.MULTILINE)
    plain = re.sub(r"\$\(if \$\(\w+\),.*?\$\(\w+\)\"\) ", "", line)
    return re.sub(r"\$\((\w+)\)", lambda used: variables[used[1]], plain)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(ROOT, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make up` prints."""
    return tmp_path_factory.mktemp("up") / "printed"


@pytest.fixture(scope="module")
def fabric(shell: Shell, printed: Path) -> Generator[Running]:
    """Run by the README's first command."""
    ready = printed.with_name("ready.json")
    with shell.keep(recipe("up"), "--port", "0", ready=ready, log=printed) as process:
        yield Running(**json.loads(ready.read_text()), process=process)


@pytest.fixture(scope="module")
def greeters(shell: Shell, fabric: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[Shell]:
    """A reader who wrote the greeter and started it by the first command below it."""
    folder = tmp_path_factory.mktemp("greeter")
    (folder / "greeter.py").write_text(GREETER)
    reader = Shell(folder, shell.data)
    with reader.keep(POOL[0].command, ready=folder / "ready", log=folder / "log"):
        yield reader


@pytest.fixture
def configuration(fabric: Running) -> dict[str, Any]:
    """The configuration of an MCP host, with the URL and the token of this fabric."""
    shown = json.loads(CLIENT.replace("THE-TOKEN", str(fabric.token)))
    shown["mcpServers"]["fabric"]["url"] = fabric.mcp_url
    return shown


def test_the_first_minute_has_two_commands() -> None:
    assert [each.words[:2] for each in FIRST_MINUTE] == [["make", "up"], [".venv/bin/fabric", "call"]]


def test_make_up_starts_a_fabric_with_the_agent_in_examples_hello() -> None:
    assert recipe("up") == ".venv/bin/fabric up examples/hello/agent.py"


def test_make_up_prints_the_url_and_a_token(fabric: Running, printed: Path) -> None:
    assert fabric.token
    assert re.search(rf"{re.escape(fabric.mcp_url)}\n.*{re.escape(fabric.token)}\n", printed.read_text())


@pytest.mark.usefixtures("fabric")
def test_a_call_from_another_terminal_is_answered_as_shown(shell: Shell) -> None:
    assert shell.type(FIRST_MINUTE[1].command) == FIRST_MINUTE[1].output


def test_make_up_says_where_its_data_is(fabric: Running, shell: Shell, printed: Path) -> None:
    assert fabric.process.poll() is None
    assert f"data   export FABRIC_DATA={shell.data}\n" in printed.read_text()


@pytest.mark.usefixtures("fabric")
def test_curl_calls_a_tool_as_shown(shell: Shell) -> None:
    ended = shell.bash(CURL)
    assert json.loads(ended.partition("data: ")[2] or ended)["result"]["content"][0]["text"] == "hi"


def test_the_script_reaches_the_fabric_as_shown(greeters: Shell) -> None:
    (greeters.folder / "call.py").write_text(SCRIPT)
    assert greeters.bash('eval "$(fabric env)"; python call.py') == "Hello, Ann!\n"


def test_the_revisions_of_mcp_that_are_spoken_are_those_told() -> None:
    (told,) = [line for line in README.splitlines() if "speaks MCP" in line]
    assert re.findall(r"\d{4}-\d{2}-\d{2}", told) == [VERSION, *sorted(map(bytes.decode, VERSIONS), reverse=True)]


def test_the_url_shown_is_where_a_fabric_listens_by_itself() -> None:
    host, port = (Settings.model_fields[name].default for name in ("host", "port"))
    assert json.loads(CLIENT)["mcpServers"]["fabric"]["url"] == f"http://{host}:{port}{PATH}"


async def test_an_mcp_host_needs_the_configuration_and_no_more(configuration: dict[str, Any]) -> None:
    async with fastmcp.Client(configuration) as host:
        answer = await host.call_tool("hello_echo", {"text": "hi"})
    assert [block.model_dump()["text"] for block in answer.content] == ["hi"]


def test_without_the_token_nobody_enters(configuration: dict[str, Any]) -> None:
    server = configuration["mcpServers"]["fabric"]
    assert httpx.post(server["url"], json={}).status_code == 401
    assert httpx.post(server["url"], json={}, headers=server["headers"]).status_code == 400


def test_the_agent_runs_as_the_pool_shown(greeters: Shell) -> None:
    _, ps, tools = POOL
    wait_until(lambda: greeters.type(ps.command).count("greeter ") == 4, what="four greeters in `fabric ps`")
    assert "greet" in greeters.type(tools.command)
    assert greeters.type("fabric call greeter greet name=Ada") == "Hello, Ada!\n"


@pytest.mark.usefixtures("greeters")
async def test_the_names_in_fabric_tools_are_those_that_mcp_clients_see(
    configuration: dict[str, Any], greeters: Shell
) -> None:
    async with fastmcp.Client(configuration) as host:
        seen = [tool.name for tool in await host.list_tools()]
    _, *listed = greeters.type(POOL[2].command).splitlines()
    assert "greeter_greet" in seen
    assert "greeter_greet" in README
    shown = ["_".join(line.split()[:2]) for line in listed]
    own = [
        name for name in seen if name.partition("_")[0] not in ("access", "approvals", "audit", "durable", "registry")
    ]
    assert sorted(shown) == sorted(own)


@pytest.mark.usefixtures("fabric")
def test_the_doctor_finds_every_part_well(shell: Shell) -> None:
    assert {finding["state"] for finding in json.loads(shell.type("fabric doctor --json"))} == {"ok"}


def test_make_has_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets
