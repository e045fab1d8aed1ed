"""docs/settings.md lists every setting, its default and whether it is live, and none that there is not; its file works.

Proves: OP-1.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ByteSize

from docs.pages import blocks, codes, read, tables
from fabric.live import CHANGED
from fabric.settings import PREFIX, PoolSettings, Settings
from fabric.settings.keys import POOLS, is_live
from fabric.settings.loading import gather, resolve
from fabric.settings.places import NAME

PAGE = read("docs/settings.md")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)


def _live(name: str) -> str:
    if name == POOLS:
        return ", ".join(part for part in PoolSettings.model_fields if is_live(f"{POOLS}.*.{part}"))
    return "yes" if is_live(name) else ""


def _shown(default: object) -> list[str]:
    if default is None or default in ((), {}):
        return []
    if isinstance(default, ByteSize):
        return [default.human_readable()]
    return [str(default).lower() if isinstance(default, bool) else str(default)]


def test_the_page_lists_every_setting_with_its_default_and_meaning() -> None:
    (page,) = tables(PAGE)
    listed = [(codes(row["variable"])[0], codes(row["default"]), row["live"], row["what it is"]) for row in page]
    assert listed == [
        (f"{PREFIX}{name.upper()}", _shown(field.default), _live(name), field.description)
        for name, field in Settings.model_fields.items()
    ]


def test_the_sample_is_read_and_shows_every_part_of_a_pool(tmp_path: Path) -> None:
    (sample,) = blocks(PAGE, "toml")
    file = tmp_path / NAME
    file.write_text(sample)
    for environment, level, processes in (("", "info", 2), ("production", "warning", 8)):
        settings = resolve(gather(file), {}, environment=environment).settings
        assert (settings.log_level, settings.limits) == (level, tmp_path / "limits.yaml")
        greeter = settings.pools["greeter"]
        assert (greeter.target, greeter.processes, greeter.name) == (str(tmp_path / "greeter.py"), processes, "hello")
        assert (greeter.capabilities, greeter.labels) == (("greet",), {"region": "eu"})
    assert all(f"\n{part} = " in sample for part in PoolSettings.model_fields)
    assert f"`{CHANGED}`" in PAGE
