"""What keeps a fabric, a pool or a command from starting is told, with what to do. Proves: OP-1, SE-7."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from docs.pages import ROOT
from support.nats_server import HOST, private_nats

from cli.command import Done, Up, alive, fabric, started
from cli.inside import fabric_inside
from cli.servers import redis_server

pytestmark = pytest.mark.timeout(90)

LOGIN = 'authorization { user: "me", password: "right" }'
NOBODY = f"{HOST}:1"
UP = ("up", "--ephemeral", "--port", "0")


class Case(NamedTuple):
    """A command that cannot work, its exit code, and what it has to say.

    In it stand `{data}` for the folder of a running fabric, `{nats}` and `{redis}` for the addresses of servers that
    want a password, `{http}` for that of its gateway, and `{taken}` for a port that is.
    """

    command: tuple[str, ...]
    code: int
    words: tuple[str, ...]
    nats: str | None = None
    redis: str | None = None
    port: str | None = None

    def env(self, around: dict[str, str]) -> dict[str, str]:
        named = {"FABRIC_NATS_URL": self.nats, "FABRIC_REDIS_URL": self.redis, "FABRIC_PORT": self.port}
        return {name: text.format(**around) for name, text in named.items() if text is not None}


FOLDER = "--data DIR"
CASES = {
    # the data folder, the port, the settings
    "a fabric on the folder": Case(("up", "--data", "{data}", "--port", "0"), 2, ("is in use by process", FOLDER)),
    "no right to write": Case(("up", "--data", "/sys/fab", "--port", "0"), 2, ("/sys/fab cannot be used", FOLDER)),
    "a taken port": Case((*UP[:3], "{taken}"), 2, ("Address already in use", "--port")),
    "a file that is not there": Case((*UP, "nosuch.py:agent"), 2, ("there is no file nosuch.py",)),
    "a port that is no number": Case(UP[:2], 2, ("FABRIC_PORT: 'many'", "a port from 1 to 65535"), port="many"),
    "no token for all": Case((*UP, "--host", "0.0.0.0", "--anonymous"), 2, ("FABRIC_ANONYMOUS", "this machine only")),
    # NATS
    "no NATS": Case(UP, 2, (f"nothing listens at nats://{NOBODY}", "start NATS"), nats=f"nats://{NOBODY}"),
    "HTTP for NATS": Case(("ps",), 2, ("is an HTTP server, not NATS",), nats="nats://{http}"),
    "HTTP for a worker's NATS": Case(("worker", "server.py"), 2, ("is an HTTP server",), nats="nats://{http}"),
    "Redis for NATS": Case(UP, 2, ("is a Redis server, not NATS",), nats="nats://{redis}"),
    "a wrong NATS password": Case(UP, 2, ("refuses these credentials",), nats="nats://me:wrong@{nats}"),
    # Redis
    "no Redis": Case(UP, 2, (f"nothing listens at redis://{NOBODY}", "start Redis"), redis=f"redis://{NOBODY}"),
    "NATS for Redis": Case(UP, 2, ("is a NATS server, not Redis",), redis="redis://{nats}"),
    "a wrong Redis password": Case(UP, 2, ("does not take this user and password",), redis="redis://:wrong@{redis}"),
    "no Redis password": Case(UP, 2, ("wants a password", "PASSWORD@"), redis="redis://{redis}"),
    # other commands
    "ps of no fabric": Case(("ps",), 3, ("no fabric is running here", "`fabric up`", "FABRIC_NATS_URL")),
    "ps of a wrong folder": Case(("ps", "--data", "/nowhere"), 3, ("no fabric is running on /nowhere", "--data")),
    "a worker of no fabric": Case(("worker", "server.py"), 3, ("no fabric is running here", "`fabric up`")),
    "call without NATS": Case(("call", "a", "b"), 3, ("no NATS server answers at", NOBODY), nats=f"nats://{NOBODY}"),
    "ps of a bare NATS": Case(("ps",), 3, ("no registry answers", "`fabric up`"), nats="nats://me:right@{nats}"),
    "ps with a wrong password": Case(("ps",), 2, ("refuses these credentials",), nats="nats://me:wrong@{nats}"),
    "a worker of no address": Case(
        ("worker", "server.py"), 2, ("FABRIC_NATS_URL: it has to start with nats:",), nats="http://x"
    ),
    "a gateway without NATS": Case(("gateway",), 2, ("the gateway needs NATS", "`fabric up`")),
}


@pytest.fixture(scope="module")
def done(node: Up, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """All of the above, a few at a time."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "server.py").write_text("from fabric_sdk import Agent\nagent = Agent('mine')\n")
    with (
        private_nats(LOGIN) as nats,
        redis_server(folder, password="right") as redis,
        socket.create_server((HOST, 0)) as taken,
        ThreadPoolExecutor(4) as pool,
    ):
        around = {"data": str(data), "taken": str(taken.getsockname()[1])}
        around["http"] = node.mcp_url.removeprefix("http://").partition("/")[0]
        around |= {"nats": f"{HOST}:{nats.port}", "redis": f"{HOST}:{redis.port}"}

        def end_of(case: Case) -> Done:
            return fabric(*(each.format(**around) for each in case.command), env=case.env(around), cwd=folder)

        ends = {name: pool.submit(end_of, case) for name, case in CASES.items()}
        found = {name: end.result() for name, end in ends.items()}
    assert node.command.process.poll() is None, "what others did wrong did it no harm"
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_once_with_what_to_do(done: dict[str, Done], name: str) -> None:
    case = CASES[name]
    done[name].refused(case.code, *case.words)
    assert "wrong@" not in done[name].err, "a password is never shown"


def test_a_port_that_is_none_is_said_to_be_the_option_s() -> None:
    done = fabric_inside("up", "--port", "80000", env={})
    assert (done.code, "--port" in done.err, "FABRIC_PORT" in done.err) == (2, True, False)


@pytest.mark.parametrize(
    ("typed", "said", "fix"),
    [
        ("call", "missing argument 'agent'", "fabric call [OPTIONS]"),
        ("task start", "missing argument 'agent'", "fabric task start [OPTIONS]"),
        ("ps --jsn", "no such option: --jsn", "fabric ps [OPTIONS]"),
        ("up --gateways many", "invalid value for '--gateways'", "fabric up [OPTIONS]"),
        ("wroker", "no such command 'wroker'. Did you mean 'worker'?", "fabric [OPTIONS] COMMAND"),
        ("config chck", "no such command 'chck'. Did you mean 'check'?", "fabric config [OPTIONS] COMMAND"),
        ("--verbose", "no such option: --verbose", "fabric [OPTIONS] COMMAND"),
    ],
)
def test_what_is_typed_wrong_is_told_with_how_it_is_written(typed: str, said: str, fix: str) -> None:
    done = fabric_inside(*typed.split(), env={"COLUMNS": "40"})
    done.refused(2, f"error: {said}", f"  fix: write `{fix}", "--help` says more")


@pytest.mark.parametrize(
    ("typed", "said", "help"),
    [
        ("ps --label", "option '--label' requires an argument", "fabric ps --help"),
        ("task list --limit", "option '--limit' requires an argument", "fabric task --help"),
        ("ps --json=1", "option '--json' does not take a value", "fabric ps --help"),
        ("--help=1", "option '--help' does not take a value", "fabric --help"),
    ],
)
def test_an_option_without_its_value_or_with_one_too_many_is_told_too(typed: str, said: str, help: str) -> None:
    fabric_inside(*typed.split(), env={}).refused(2, f"error: {said}", f"  fix: `{help}` lists the options")


def test_make_up_passes_on_what_it_is_told() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "up", "PORT=8421", "DATA=/a b", "AGENT=mine.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == '.venv/bin/fabric up --port "8421" --data "/a b" mine.py'


def test_without_a_command_there_is_help() -> None:
    for typed in ((), ("config",)):
        done = fabric_inside(*typed, env={})
        assert ("error:" in done.out + done.err, "Commands" in done.out + done.err) == (False, True)


def test_ctrl_c_while_the_command_itself_is_loaded_ends_it_quietly(tmp_path: Path) -> None:
    # An import that takes longer than the test: it is the signal that ends it.
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with started("ps", folder=tmp_path, cwd=tmp_path, env={"PYTHONPATH": path}) as command:
        command.until((tmp_path / "begun").exists, what="the beginning of the import")
        assert command.stop(signal.SIGINT) == 130
    assert command.said == ""


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    done = fabric("doctor", "--json", "--data", tmp_path)
    assert done.code == 1
    states = {finding["check"]: finding["state"] for finding in done.json}
    assert states["python"] == states["binaries"] == states["settings"] == "ok"
    assert states["nats"] == states["registry"] == "failed"
    assert all(finding["fix"] for finding in done.json if finding["state"] == "failed")


def test_a_fabric_that_is_told_to_stop_while_it_starts_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(1000)\n")
    data = tmp_path / "data"
    with started("up", "--data", data, "--port", "0", "server.py", folder=tmp_path, cwd=tmp_path) as command:
        command.until((tmp_path / "begun").exists, what="the beginning of the import")
        everything = command.family()
        assert command.stop(signal.SIGINT) == 130
        assert not alive(everything)
    assert not (data / "fabric.json").exists()
    assert "Traceback" not in command.said
