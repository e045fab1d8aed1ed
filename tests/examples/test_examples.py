"""The examples do what they say, and the demo survives the worker that it kills.

Proves: RT-6 (a pool outlives its workers, a killed one is replaced), TR-1 (a client that knows only MCP), PT-1 (agents
call agents; a call whose worker died is answered by another)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.running import Running, running_fabric, wait_until

from fabric_sdk import Fabric, FabricError

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples" / "hello"
REVIEW = ROOT / "examples" / "review"
DEMO = (sys.executable, str(REVIEW / "demo.py"))
SDK = ROOT / "sdk"

pytestmark = pytest.mark.anyio

TANGLED = """\
import os


class Knot:
    def tie(self, ends):
        if ends:
            for end in ends:
                if end and not end.loose:
                    return [each for each in end if each]
        elif ends is None:
            return None
        return ends
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree with something of everything, and a file beside it that is none of the reader's business."""
    around = tmp_path_factory.mktemp("tree")
    root = around / "root"
    files = {
        "tangled.py": TANGLED,
        "package/a b#1%.py": "x = 1\n",
        "broken.py": "def (:\n",
        "notes.txt": "not Python",
        ".hidden/secret.py": "x = 1\n",
        "venv/pyvenv.cfg": "",
        "venv/lib/theirs.py": "x = 1\n",
        "ruff.toml": 'lint.select = ["ALL"]\n',
        "../outside.py": "x = 1\n",
    }
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "link.py").symlink_to(around / "outside.py")
    (root / "inner.py").symlink_to(root / "tangled.py")
    (root / "loop").symlink_to(root, target_is_directory=True)
    return root


@pytest.fixture(scope="module")
def examples(tree: Path) -> Generator[Running]:
    """One fabric with every agent of the examples."""
    hello = [str(HELLO / f"{name}.py") for name in ("agent", "fastmcp_server", "mcp_server")]
    review = [str(REVIEW / f"{name}.py") for name in ("reader", "linter", "metrics")]
    with running_fabric(*hello, *review, env={"REVIEW_ROOT": str(tree)}) as running:
        yield running


@pytest.fixture
async def fabric(examples: Running) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(examples.nats_url) as fabric:
        yield fabric


# hello


@pytest.mark.parametrize("name", ["hello", "hello-fastmcp", "hello-mcp"])
def test_one_client_calls_an_agent_and_servers_that_know_nothing_of_the_fabric(examples: Running, name: str) -> None:
    done = run(sys.executable, str(HELLO / "client.py"), name, env=examples.env)
    assert done.returncode == 0, done.stdout
    assert f"{name} answered 101 calls" in done.stdout


# review: the agents


async def test_the_reader_lists_the_sources_of_the_tree_and_nothing_else(fabric: Fabric) -> None:
    found = await fabric.agent("reader").call("list")
    assert found["paths"] == ["broken.py", "inner.py", "package/a b#1%.py", "tangled.py"]


@pytest.mark.parametrize(
    "uri",
    [
        "source://../outside.py",
        "source://package/../../outside.py",
        "source://%2e%2e/outside.py",
        "source://{outside}",
        "source://link.py",
        "source://loop/link.py",
        "source://notes.txt",
        "source://package",
        "source://no.py",
        "source://tangled.py%00.py",
    ],
)
async def test_the_reader_refuses_what_is_not_a_source_inside_the_tree(fabric: Fabric, tree: Path, uri: str) -> None:
    with pytest.raises(FabricError, match="there is no Python source"):
        await fabric.agent("reader").read(uri.format(outside=tree.parent / "outside.py"))


async def test_the_linter_goes_by_its_own_rules_whatever_the_tree_says(fabric: Fabric) -> None:
    found = await fabric.agent("linter").call("lint", {"path": "tangled.py"})
    assert [(each["rule"], each["line"]) for each in found["findings"]] == [("F401", 1)]


async def test_metrics_are_those_of_the_syntax_tree(fabric: Fabric) -> None:
    found = (await fabric.agent("metrics").call("measure", {"path": "tangled.py"}))["measures"]
    # 1 + if + for + if + and + comprehension + its if + elif
    knot = {"name": "Knot.tie", "line": 5, "lines": 8, "complexity": 8, "nesting": 3}
    assert found == {
        "lines": 12, "functions": 1, "nesting": 3, "most_complex": knot, "largest": knot, "broken": None,
    }  # fmt: skip


async def test_a_file_that_is_not_valid_python_is_reviewed_too(fabric: Fabric) -> None:
    lint = await fabric.agent("linter").call("lint", {"path": "broken.py"})
    assert {each["rule"] for each in lint["findings"]} == {"invalid-syntax"}
    measured = (await fabric.agent("metrics").call("measure", {"path": "broken.py"}))["measures"]
    assert measured["lines"] == 1
    assert measured["broken"].startswith("SyntaxError")


async def test_the_path_of_a_source_may_hold_what_means_something_in_a_uri(fabric: Fabric) -> None:
    assert (await fabric.agent("metrics").call("measure", {"path": "package/a b#1%.py"}))["measures"]["lines"] == 1


# review: the driver


def test_the_driver_needs_only_the_url_and_the_token_of_an_mcp_server(examples: Running) -> None:
    done = drive(examples)
    assert done.returncode == 0, done.stdout
    assert "All 4 files were linted and measured; no call failed." in done.stdout
    assert "Knot.tie" in done.stdout


def test_the_driver_says_which_reviews_are_missing_and_fails(examples: Running, tree: Path) -> None:
    unreadable = tree / "unreadable.py"
    unreadable.write_bytes(b"# coding: utf-8\n\xff\n")
    try:
        done = drive(examples)
    finally:
        unreadable.unlink()
    assert done.returncode == 1, done.stdout
    assert "2 reviews are missing" in done.stdout
    assert "unreadable.py: linter_lint: " in done.stdout
    assert "unreadable.py: metrics_measure: " in done.stdout


def test_a_server_that_is_not_there_is_one_sentence(examples: Running) -> None:
    done = run(sys.executable, str(REVIEW / "driver.py"), "http://127.0.0.1:9/mcp", env=examples.env)
    assert done.returncode == 1
    assert done.stdout.startswith("error: the MCP server cannot be reached")
    assert "Traceback" not in done.stdout


# review: the demo


@pytest.mark.timeout(120)
def test_the_demo_reviews_every_file_although_a_worker_is_killed_half_way() -> None:
    done = run(*DEMO, "--repo", str(SDK))
    assert done.returncode == 0, done.stdout
    killed = re.search(r"half-way: kill -9 (\d+)", done.stdout)
    assert killed, done.stdout
    assert "was killed by SIGKILL" in done.stdout
    assert re.search(r"All \d+ files were linted and measured; no call failed\.", done.stdout), done.stdout
    assert done.stdout.count("stopping") == 1, "it says so for all its parts"
    assert nothing_left(done.stdout)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("signum", "sign"), [(signal.SIGINT, "half-way"), (signal.SIGTERM, "gateway")], ids=["at-work", "while-it-starts"]
)
def test_a_demo_that_is_told_to_stop_leaves_nothing_behind(tmp_path: Path, signum: signal.Signals, sign: str) -> None:
    with demo(
        "--repo", str(ROOT / "fabric"), log=tmp_path / "log"
    ) as running:  # large enough not to be through by then
        running.wait_for(sign)
        running.process.send_signal(signum)
        running.process.send_signal(signum)  # as somebody does who is impatient
        assert running.process.wait(60) == 130, running.said
    assert "stopped before the end" in running.said
    assert "Traceback" not in running.said
    assert nothing_left(running.said)


@pytest.mark.parametrize(
    ("repo", "why"), [("nowhere", "there is no folder"), ("file", "there is no folder"), ("empty", "no Python files")]
)
def test_a_repo_with_nothing_to_review_is_refused_in_one_sentence(tmp_path: Path, repo: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    done = run(*DEMO, "--repo", str(tmp_path / repo))
    assert done.returncode == 2, done.stdout
    assert done.stdout.count("\n") == 1
    assert why in done.stdout


# tools


@dataclass
class Demo:
    """A demo under way."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, sign: str) -> None:
        """Wait until it has said `sign`."""
        wait_until(lambda: sign in self.said or self.process.poll() is not None, seconds=60, what=f"{sign!r}")
        assert self.process.poll() is None, self.said


@contextmanager
def demo(*arguments: str, log: Path) -> Generator[Demo]:
    with log.open("wb") as output:
        process = subprocess.Popen([*DEMO, *arguments], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Demo(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; both its outputs are in `stdout`."""
    return subprocess.run(
        command,
        env={**(env or os.environ), "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )


def drive(examples: Running) -> subprocess.CompletedProcess[str]:
    """Run the driver as a person does who knows no more than an MCP host is told."""
    assert examples.token is not None
    bare = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
    return run(
        sys.executable, str(REVIEW / "driver.py"), examples.mcp_url, env={**bare, "FABRIC_TOKEN": examples.token}
    )


def nothing_left(said: str) -> bool:
    """Whether every process that the demo spoke of is gone."""
    pids = [int(pid) for pid in re.findall(r"ready +\S+ pid (\d+)", said)]
    assert pids, said
    return not [pid for pid in pids if psutil.pid_exists(pid)]
