"""How pools are described and told of: under their agents' names, and nothing is started for a file that is not there.

Proves: RT-6, OP-1
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fabric.pool.ready import ReadyFile
from fabric.pool.specs import PoolSpec, with_mistakes
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
