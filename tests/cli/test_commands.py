"""The commands that look at a running fabric and use it: what they print, how they end. Proves: OP-1, CM-1, PT-1."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.load import tools

from cli.command import Done, Up, fabric, started
from cli.servers import free_port
from fabric.embedded.ports import is_free

CREW = Path(__file__).with_name("crew.py")

REFUSED: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "an unknown agent": (("call", "nobody", "echo"), 2, ("there is no agent 'nobody'", "there are: ", "hello")),
    "an unknown tool": (("call", "hello", "nothing"), 2, ("agent 'hello' has no tool 'nothing'",)),
    "no pair": (("call", "hello", "echo", "hi"), 2, ("'hi' is not name=value", "fix: write text=hi")),
    "no JSON": (("call", "hello", "echo", '{"text":'), 2, ("the arguments are not JSON", '{"name": "value"}')),
    "a missing argument": (
        ("call", "hello", "echo"),
        4,
        ("text: Field required", "fix: echo takes text: write name=value"),
    ),
    "a wrong name": (("call", "hello", "echo", "txt=hi"), 4, ("txt: Extra", "fix: echo takes text: write name=value")),
    "a wrong type": (
        ("call", "hello", "count", "to=many"),
        4,
        ("invalid arguments for count", "valid integer", "fix: count takes to, [pause]", "`fabric tools hello --json`"),
    ),
    "an argument of a tool without any": (("call", "hello", "hang", "a=1"), 4, ("fix: hang takes no arguments",)),
    "a tool's error": (("call", "hello", "refuse", "reason=not today"), 4, ("not today",)),
    "a crash of a tool": (("call", "hello", "crash"), 4, ("RuntimeError: something unexpected",)),
    "a deadline": (("call", "hello", "hang", "--timeout", "0.5"), 5, ("the deadline passed", "--timeout")),
    "tools of nobody": (("tools", "nobody"), 2, ("there is no agent 'nobody'", "there are: ")),
}
ANSWERED: dict[str, tuple[str, ...]] = {
    "ps": ("ps",),
    "ps as JSON": ("ps", "--json"),
    "tools": ("tools",),
    "tools as JSON": ("tools", "hello", "--json"),
    "text": ("call", "hello", "echo", "text=hi there"),
    "text as JSON": ("call", "hello", "echo", '{"text": "hi [bold]there"}', "--json"),
    "an object": ("call", "hello", "whoami", "wait=0"),
    "progress": ("call", "hello", "count", "to=2", "--key", "once"),
    "doctor": ("doctor",),
    "doctor as JSON": ("doctor", "--json"),
}


@pytest.fixture(scope="module")
def done(node: Up, data: Path) -> dict[str, Done]:
    """All of the above, a few at a time. They find the fabric by its data folder alone."""
    asked = {name: arguments for name, (arguments, _, _) in REFUSED.items()} | ANSWERED
    with ThreadPoolExecutor(4) as pool:
        ends = {name: pool.submit(fabric, *arguments, "--data", str(data)) for name, arguments in asked.items()}
        return {name: end.result() for name, end in ends.items()}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_mistake_gets_one_clear_error_and_its_exit_code(done: dict[str, Done], wrong: str) -> None:
    _, code, words = REFUSED[wrong]
    done[wrong].refused(code, *words)
    assert not done[wrong].out


@pytest.mark.parametrize("name", ANSWERED)
def test_what_works_ends_with_code_0(done: dict[str, Done], name: str) -> None:
    assert (done[name].code, "error" in done[name].err) == (0, False), done[name].err


def test_ps_shows_each_instance(done: dict[str, Done], node: Up) -> None:
    pid = node.pids["hello-1"]
    heading, *rows = [line.split()[0] for line in done["ps"].out.splitlines()]
    assert (heading, sorted(rows)) == ("AGENT", ["access", "approvals", "audit", "durable", "hello", "registry"])
    assert f":{pid}" in done["ps"].out
    agents: list[dict[str, Any]] = done["ps as JSON"].json["agents"]
    (hello,) = (agent for agent in agents if agent["name"] == "hello")
    assert [(each["pid"], each["state"]) for each in hello["instances"]] == [(pid, "ready")]


def test_ps_shows_what_each_instance_says_now(node: Up, tmp_path: Path) -> None:
    def shown() -> str:
        (row,) = [line for line in fabric("ps", env=node.env).out.splitlines() if line.startswith("hello")]
        return row.split()[4]

    assert shown() == "0/64"
    with started("call", "hello", "count", "to=1000", folder=tmp_path, env=node.env) as call:
        call.until_said("2 of ")
        assert shown() == "1/64"
    psutil.Process(node.pids["hello-1"]).suspend()
    try:
        assert shown().startswith("~")
    finally:
        psutil.Process(node.pids["hello-1"]).resume()


def test_tools_shows_each_tool_of_each_agent(done: dict[str, Done]) -> None:
    shown = [line.split()[:3] for line in done["tools"].out.splitlines()]
    assert ["hello", "echo", "text"] in shown
    assert "registry" not in done["tools"].out, "the platform's own are shown on demand"
    (echo,) = (tool for tool in done["tools as JSON"].json if tool["name"] == "echo")
    assert echo["inputSchema"]["required"] == ["text"]


def test_call_prints_the_value_alone_on_standard_output(done: dict[str, Done], node: Up) -> None:
    assert done["text"].out == "hi there\n"
    assert done["text as JSON"].json == "hi [bold]there"
    assert done["an object"].json["pid"] == node.pids["hello-1"]
    assert done["progress"].out == "2\n"
    assert "2 of 2 at 2" in done["progress"].err


def test_doctor_finds_every_part_well(done: dict[str, Done]) -> None:
    assert {finding["check"]: finding["state"] for finding in done["doctor as JSON"].json} == dict.fromkeys(
        ("python", "binaries", "settings", "nats", "jetstream", "streams", "redis", "registry", "agents", "gateway"),
        "ok",
    )
    assert done["doctor"].out.count("ok ") == 10


def test_the_environment_names_the_data_folder_or_the_bus(node: Up, data: Path) -> None:
    for env in ({"FABRIC_DATA": str(data)}, node.env):
        assert fabric("call", "hello", "echo", "text=hi", env=env).out == "hi\n"


def test_one_more_gateway_serves_the_same_fabric(node: Up, tmp_path: Path) -> None:
    port = free_port()
    env = {**node.env, "FABRIC_PORT": str(port), "FABRIC_TOKEN": str(node.token)}
    other = replace(node, mcp_url=f"http://127.0.0.1:{port}/mcp")
    with started("gateway", folder=tmp_path, env=env) as gateway:
        gateway.until(lambda: not is_free(port), what="the gateway's port")
        assert "hello_echo" in asyncio.run(tools(other))
        assert gateway.stop() == 0
    assert "Traceback" not in gateway.said


def test_a_call_that_loses_its_worker_is_told_what_to_do(node: Up, tmp_path: Path) -> None:
    with started("worker", CREW, folder=tmp_path, env=node.env) as pool:
        pool.until_said("ready")
        with started("call", "crew", "slow", "seconds=60", folder=tmp_path, env=node.env) as call:
            call.until_said("2 of ")
            for _ in range(2):  # the second one waits for no call
                pool.process.send_signal(signal.SIGTERM)
                pool.until_said("stopping")
            assert call.process.wait(40) == 1
    assert "fix: see whether it was done before you call again; with `--key KEY`" in call.said


def test_agents_that_are_not_there_are_warned_of_and_taken(data: Path) -> None:
    made = fabric("token", "create", "bot", "--agent", "helo", "--data", data)
    warned = "warning: there is no agent 'helo' now (did you mean hello?); this counts once there is"
    assert (made.code, made.err.count("warning"), warned in made.err) == (0, 1, True), made.err
    assert made.out.startswith("fab_")
    assert "warning" not in fabric("token", "create", "bot", "--agent", "hello", "--data", data).err
    mounted = fabric("mount", "shopp", "pay", "nowhere", "--json", "--data", data)
    assert mounted.json["target"] == "nowhere"
    assert [line.split("(")[0] for line in mounted.err.splitlines()] == [
        f"warning: there is no agent {name!r} now " for name in ("shopp", "nowhere")
    ]
    assert "warning" not in fabric("mount", "hello", "reg", "registry", "--data", data).err


def test_doctor_does_not_take_another_fabric_s_gateway_for_this_one_s(data: Path) -> None:
    done = fabric("doctor", "--json", env={"FABRIC_DATA": str(data), "FABRIC_NATS_URL": "nats://127.0.0.1:1"})
    found = {finding["check"]: finding["state"] for finding in done.json}
    assert (found["gateway"], found["redis"]) == ("warning", "warning")


def test_how_its_folder_is_named_to_others_stands_among_what_up_prints(node: Up, data: Path) -> None:
    node.command.until_said(f"data   export FABRIC_DATA={data}")


def test_how_to_connect_is_for_this_user_alone(node: Up, data: Path) -> None:
    for file in ("fabric.json", "token"):
        assert (data / file).stat().st_mode & 0o777 == 0o600
    for process in node.command.family():
        said = " ".join(process.cmdline())  # which everybody on this machine can read
        assert not [secret for secret in (str(node.token), node.nats_url, node.redis_url) if secret in said]
