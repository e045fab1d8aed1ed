"""The configuration is followed: taken whole or refused whole, however its file is changed. Proves: OP-1, RT-6."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually

from fabric import live as module
from fabric.live import Change, LiveSettings
from fabric.named_files import check
from fabric.pool.sizes import Sizes
from fabric.process import Copies, ProcessSpec, Supervisor
from fabric.settings import Settings
from fabric_sdk.cancelling import end


@pytest.fixture(autouse=True)
def _level() -> Generator[None]:
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


class Following:
    """Live settings that run, and what was heard of them."""

    def __init__(self, file: Path, **more: Any) -> None:
        self.live = LiveSettings(file, **more)
        self.heard: list[Change] = []
        self.live.listen(self.heard.append)

    async def level(self, level: str) -> None:
        await eventually(lambda: self.live.settings.log_level == level, what=f"the level {level}")


@asynccontextmanager
async def following(file: Path, **more: Any) -> AsyncGenerator[Following]:
    found = Following(file, **more)
    task = asyncio.create_task(found.live.run())
    try:
        yield found
        assert not task.done()
    finally:
        await end([task])


def written(file: Path, text: str) -> None:
    """As editors do: a new file in the old one's place."""
    aside = file.with_suffix(".swp")
    aside.write_text(text)
    aside.replace(file)


async def test_a_good_change_is_taken_and_a_bad_one_is_refused_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text("# nothing\n")
    async with following(file, defaults={"log_level": "warning"}) as found:
        assert found.live.settings.log_level == "warning"
        written(file, 'log_level = "error"\nport = 1\n')
        await found.level("error")
        assert logging.getLogger().level == logging.ERROR
        assert [(change.applied, change.restart) for change in found.heard] == [(("log_level",), ("port",))]
        assert found.live.settings.port == 8420
        written(file, 'log_level = "debug"\nport = "web"\nprot = 2\n')
        await eventually(lambda: "refused" in caplog.text, what="the refusal")
        refusal = next(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
        assert "refused, and the old configuration kept: " in refusal
        assert f"{file}:2: port: 'web'" in refusal
        assert f"{file}:3: prot: there is no such setting" in refusal
        file.unlink()
        await eventually(lambda: "No such file" in caplog.text, what="another refusal")
        assert found.live.settings.log_level == "error"
        assert len(found.heard) == 1
        written(file, "")
        await found.level("warning")


async def test_a_config_map_is_followed_by_its_link(tmp_path: Path) -> None:
    for level in ("info", "error"):
        (tmp_path / level).mkdir()
        (tmp_path / level / "fabric.toml").write_text(f'log_level = "{level}"')
    (tmp_path / "..data").symlink_to("info")
    (tmp_path / "fabric.toml").symlink_to("..data/fabric.toml")
    async with following(tmp_path / "fabric.toml") as found:
        (tmp_path / "..next").symlink_to("error")
        (tmp_path / "..next").replace(tmp_path / "..data")
        await found.level("error")


async def test_a_file_that_it_names_is_part_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, limits = tmp_path / "fabric.toml", tmp_path / "limits.yaml"
    file.write_text('log_level = "info"')
    limits.write_text("limits: [1]")
    async with following(file, check=check) as found:
        written(file, 'log_level = "error"\nlimits = "limits.yaml"')
        await eventually(lambda: f"{limits}:1: " in caplog.text, what="the refusal")
        assert found.live.settings.log_level == "info", "nothing of it is taken"
        limits.write_text("limits: []")
        await found.level("error")
        assert found.live.settings.limits == limits


async def test_sighup_reads_it_anew_and_tells_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_has_terminal", lambda: False)
    file = tmp_path / "fabric.toml"
    file.write_text('log_level = "info"')
    async with following(file) as found:
        found.live.hear_hangup()
        try:
            logging.getLogger().setLevel(logging.INFO)
            os.kill(os.getpid(), signal.SIGHUP)
            await eventually(lambda: f"changed: the configuration of {file}" in caplog.text, what="word of it")
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        assert found.heard == []


async def test_pools_follow_their_sizes(tmp_path: Path) -> None:
    def copy(number: int) -> ProcessSpec:
        return ProcessSpec(name=f"shop-{number}", argv=("/bin/sleep", "60"))

    def sized(processes: int) -> Settings:
        pools = {name: {"target": "x:y", "processes": processes} for name in ("shop", "other")}
        return Settings.model_validate({"pools": pools})

    async with Supervisor() as supervisor:
        copies = Copies(supervisor, copy)
        await copies.scale(1)
        sizes = Sizes({"shop": copies}, tmp_path)
        task = asyncio.create_task(sizes.run())
        for processes in (3, 2):
            sizes.follow(sized(processes))
            await eventually(lambda processes=processes: len(supervisor.statistics()) == processes)
        await end([task])
