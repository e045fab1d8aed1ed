"""The policy follows its files: a good one holds at once, a bad one is refused while the old stays. Proves: SE-2."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from policy.written import source
from support.waiting import eventually

from fabric.policy import Policy, PolicyKeeper
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.errors import ConfigurationError


def written(name: str) -> str:
    """A policy with one rule of this name."""
    rule = {"name": name, "principals": ["*"], "on": ["*/*"], "then": "allow"}
    return source({"rules": [rule]}).data.decode()


class Following:
    """A keeper that runs, and the policies that it told of."""

    def __init__(self, keeper: PolicyKeeper) -> None:
        self.keeper = keeper
        self.heard: list[Policy] = []
        keeper.listen(self.heard.append)

    @property
    def names(self) -> list[str]:
        return [rule.name for rule in self.keeper.value.rules]

    async def holds(self, *names: str) -> None:
        await eventually(lambda: self.names == list(names), what=f"a policy of {names}, not {self.names},")


@asynccontextmanager
async def running(keeper: PolicyKeeper) -> AsyncGenerator[Following]:
    found = Following(keeper)
    task = asyncio.create_task(keeper.run())
    try:
        yield found
        assert not task.done()
    finally:
        await end([task])


async def test_a_change_holds_and_is_told(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(written("one"))
    async with running(PolicyKeeper(file)) as found:
        old = found.keeper.value
        file.write_text(written("two"))
        await found.holds("two")
        assert [rule.name for rule in old.rules] == ["one"], "who decides by the old one is not disturbed"
        (tmp_path / "neighbour").write_text("changes nothing")
        (tmp_path / "new").write_text(written("three"))
        (tmp_path / "new").replace(file)  # as editors do
        await found.holds("three")
        await eventually(lambda: found.heard[-1] is found.keeper.value)
        assert [policy.rules[0].name for policy in found.heard] == ["two", "three"]
        file.write_text(written("one"))  # back to what it was at first
        await found.holds("one")


async def test_a_listener_that_fails_keeps_nobody_from_hearing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(policy: Policy) -> None:
        raise ValueError("no")

    file = tmp_path / "policy.yaml"
    file.write_text(written("one"))
    keeper = PolicyKeeper(file)
    keeper.listen(fails)
    async with running(keeper) as found:
        for name in ("two", "three"):
            file.write_text(written(name))
            await found.holds(name)
            await eventually(lambda: found.heard and found.heard[-1] is keeper.value)
    assert "a listener of the policy failed" in caplog.text


async def test_a_bad_one_is_refused_with_its_line_and_the_old_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(written("one"))
    with caplog.at_level(logging.ERROR):
        async with running(PolicyKeeper(file)) as found:
            file.write_text("rules:\n  - name: bad\n    then: perhaps\n")
            await eventually(lambda: caplog.messages, what="an error in the log")
            assert f"{file}:3:11: there is no 'perhaps' here" in caplog.messages[0]
            assert found.names == ["one"]
            file.unlink()
            await eventually(lambda: "No such file" in caplog.messages[-1], what="another error")
            assert found.names == ["one"]
            assert found.heard == []
            file.write_text(written("mended"))
            await found.holds("mended")
            assert len(found.heard) == 1


async def test_a_folder_is_followed_also_when_it_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text(written("a"))
    async with running(PolicyKeeper(folder)) as found:
        (folder / "b.yaml").write_text(written("b"))
        await found.holds("a", "b")
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "c.yaml").write_text(written("c"))
        await found.holds("c")


async def test_a_mounted_folder_is_swapped_by_its_link(tmp_path: Path) -> None:
    """As Kubernetes does with a ConfigMap."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(written(name))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    async with running(PolicyKeeper(tmp_path / "policy.yaml")) as found:
        (tmp_path / "..next").symlink_to("two")
        (tmp_path / "..next").replace(tmp_path / "..data")
        await found.holds("two")


async def test_it_moves_from_the_built_in_one_to_a_file_and_back(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(written("one"))
    async with running(PolicyKeeper()) as found:
        built_in = found.names
        found.keeper.move(file)
        await found.holds("one")
        found.keeper.move(tmp_path / "none")
        await asyncio.sleep(0)
        found.keeper.move(None)
        await found.holds(*built_in)
        assert len(found.heard) == 2


def test_at_the_start_a_bad_one_is_an_error_of_configuration(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [1]")
    for path in (file, tmp_path / "none"):
        with pytest.raises(ConfigurationError):
            PolicyKeeper(path)
