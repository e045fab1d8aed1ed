"""How pools are described and told of: under their agents' names, and nothing is started for a file that is not there.

Proves: RT-6, OP-1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fabric.pool.ready import ReadyFile
from fabric.pool.specs import PoolSpec, with_mistakes, worker_specs
from fabric.process import Exited, ProcessEvent, Ready, Stopped
from fabric_sdk.contracts.errors import ConfigurationError


@pytest.mark.parametrize(
    ("process", "agent", "told"),
    [
        ("fserver-3", "weather-server", "weather-server (fserver-3)"),
        ("hello-1", "hello", "hello-1"),
        ("two-words-1", "two-words", "two-words-1"),
        ("gateway", "", "gateway"),
    ],
)
def test_a_process_is_called_by_its_agent(tmp_path: Path, process: str, agent: str, told: str) -> None:
    heard: list[ProcessEvent] = []
    tell = with_mistakes(heard.append, tmp_path)
    with ReadyFile.of(tmp_path / f"{process}.ready", agent):
        tell(Ready(process, 7, 0.5))
    tell(Exited(process, 7, 1, None, 9.0, "it failed"))  # by now its file is gone
    tell(Stopped(process))
    assert [event.name for event in heard] == [told, told, told]


@pytest.mark.parametrize("target", ["nosuch.py", "nosuch.py:agent", "/nowhere/at.py:agent"])
def test_a_file_that_is_not_there_is_told_before_anything_starts(target: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        PoolSpec(target=target)


def test_what_a_server_can_do_and_its_labels_reach_its_processes(tmp_path: Path) -> None:
    pool = PoolSpec(target="m:server", capabilities=("translate", "lint"), labels=(("team", "search"),))
    argv = worker_specs(pool, run=tmp_path, env={})(1).argv
    assert argv[-3:] == ("--capability=translate", "--capability=lint", "--label=team=search")


@pytest.mark.parametrize("said", [{"capabilities": ("No!",)}, {"labels": (("team", "a b"),)}], ids=str)
def test_what_no_server_can_do_is_told_before_anything_starts(said: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot"):
        PoolSpec(target="m:server", **said)
