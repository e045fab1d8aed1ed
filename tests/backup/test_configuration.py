"""A backup brings the configuration back, file by file and by hash, and nothing of it over something else.

Proves: MB-3 (it comes back from a backup), OP-1.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from cli.command import Done
from cli.inside import fabric_inside
from support.durable import KEEPING
from support.nats_server import PrivateNats, private_nats

POLICY = """\
rules:
  - {name: all, principals: ["*"], on: ["*/*"], then: allow}
"""
FILES = {
    "fabric.toml": 'log_level = "info"\npolicy = "rules"\nlimits = "../limits.yaml"\n',
    "rules/first.yaml": POLICY,
    "rules/second.yaml": POLICY.replace("name: all", "name: others"),
}
LIMITS = "limits: []\n"


class Site:
    """A fabric's NATS server, and its configuration in a folder."""

    def __init__(self, folder: Path, nats: PrivateNats) -> None:
        self.home = folder / "etc"
        self.backup = folder / "monday.backup"
        self.env = {"FABRIC_NATS_URL": nats.url, "FABRIC_CONFIG": str(self.home / "fabric.toml")}
        for name, text in FILES.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(text)
        (folder / "limits.yaml").write_text(LIMITS)

    def __call__(self, *arguments: str | Path) -> Done:
        return fabric_inside(*arguments, env=self.env)


@pytest.fixture
def site(tmp_path: Path) -> Generator[Site]:
    with private_nats(KEEPING) as nats:
        yield Site(tmp_path, nats)


def hashes(folder: Path) -> dict[str, str]:
    """Of every file in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_it_comes_back_by_hash_and_is_good_as_it_lies(site: Site, tmp_path: Path) -> None:
    saved = site("backup", site.backup, "--json")
    assert saved.code == 0, saved.err
    parts: list[dict[str, Any]] = saved.json["configuration"]
    said = {part["name"]: part["sha256"] for part in parts}
    assert said == hashes(site.home) | {"limits/limits.yaml": hashlib.sha256(LIMITS.encode()).hexdigest()}

    told = site("restore", site.backup)
    assert "not restored: fabric.toml, rules/first.yaml, rules/second.yaml, limits/limits.yaml; " in told.err
    laid = tmp_path / "laid" / "out"
    assert site("restore", site.backup, "--configuration", laid).code == 0
    assert hashes(laid) == said
    assert (laid / "fabric.toml").stat().st_mode & 0o777 == 0o600
    (laid / "limits").rename(tmp_path / "laid" / "limits")  # what stood elsewhere is put where the file names it
    (tmp_path / "laid" / "limits" / "limits.yaml").rename(tmp_path / "laid" / "limits.yaml")
    checked = site("config", "check", "--config", laid / "fabric.toml")
    assert checked.code == 0, checked.err
    assert site("policy", "check", laid / "rules").code == 0


def test_a_file_that_is_typed_is_the_one(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other" / "production.toml"
    other.parent.mkdir()
    other.write_text('log_level = "error"\n')
    saved = site("backup", site.backup, "--config", other, "--json")
    assert [part["name"] for part in saved.json["configuration"]] == ["fabric.toml"]
    laid = tmp_path / "laid"
    assert site("restore", site.backup, "--configuration", laid).code == 0
    assert (laid / "fabric.toml").read_text() == other.read_text()


def test_nothing_is_overwritten_in_silence(site: Site, tmp_path: Path) -> None:
    assert site("backup", site.backup).code == 0
    before = site.backup.read_bytes()
    site("backup", site.backup).refused(2, f"{site.backup} is there already", "--force")
    assert site.backup.read_bytes() == before
    assert site("backup", site.backup, "--force").code == 0

    laid = tmp_path / "laid"
    (laid / "rules").mkdir(parents=True)
    (laid / "rules" / "second.yaml").write_text("mine")
    site("restore", site.backup, "--configuration", laid).refused(2, "second.yaml is there already", "an empty folder")
    assert hashes(laid).keys() == {"rules/second.yaml"}
    (laid / "rules" / "second.yaml").write_text(FILES["rules/second.yaml"])
    assert site("restore", site.backup, "--configuration", laid).code == 0, "what is the same may be there"


def test_what_cannot_be_written_or_read_is_told_by_its_name(site: Site, tmp_path: Path) -> None:
    nowhere = site("backup", tmp_path / "nowhere" / "a.backup")
    nowhere.refused(1, f"{tmp_path}/nowhere/a.backup: No such file or directory")
    (tmp_path / "limits.yaml").unlink()
    site("backup", site.backup).refused(1, "limits.yaml: No such file or directory")
    os.mkfifo(tmp_path / "limits.yaml")
    site("backup", site.backup).refused(1, "limits.yaml: it is a pipe, and no file")
    assert not site.backup.exists()


def test_a_token_is_no_more_overwritten_than_a_message(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    site.env = {}
    assert site("backup", site.backup, "--data", folder).code == 0, "which makes it a fabric's"
    (folder / "token").write_text("first")
    assert site("backup", site.backup, "--data", folder, "--force").code == 0
    (folder / "token").write_text("second")
    site("restore", site.backup, "--data", folder).refused(2, "has a token, and not the one that was saved", "--force")
    assert (folder / "token").read_text() == "second"
    assert site("restore", site.backup, "--data", folder, "--force").code == 0
    assert (folder / "token").read_text() == "first"


def test_a_token_that_is_no_text_and_a_file_in_the_way_are_told_before_anything_is_done(
    site: Site, tmp_path: Path
) -> None:
    folder, laid = tmp_path / "kept", tmp_path / "laid"
    folder.mkdir()
    site.env = {}
    assert site("backup", site.backup, "--data", folder).code == 0, "which makes it a fabric's"
    (folder / "token").write_bytes(b"\xff")
    assert site("backup", site.backup, "--data", folder, "--force").code == 0
    (folder / "token").write_text("mine")
    before = hashes(folder / "nats")
    for more in (["--check"], ["--data", folder], ["--data", folder, "--force"]):
        refused = site("restore", site.backup, *more)
        refused.refused(2, "configuration/token is no text", "take another backup")
    assert (folder / "token").read_text() == "mine"
    assert hashes(folder / "nats") == before

    site.env = {"FABRIC_NATS_URL": "nats://127.0.0.1:1", "FABRIC_CONFIG": str(site.home / "fabric.toml")}
    site.backup.unlink()
    with private_nats(KEEPING) as nats:
        site.env["FABRIC_NATS_URL"] = nats.url
        assert site("backup", site.backup).code == 0
        laid.mkdir()
        (laid / "rules").write_text("a file")
        site("restore", site.backup, "--configuration", laid).refused(
            2, f"{laid}/rules is there already", "empty folder"
        )
