"""A file that others read is the old one or the new one, at any moment. Proves: no row."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabric.files import put, replacing


def test_a_file_is_replaced_whole_and_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.with_name("a.json.new").write_text("left by one that was killed")
    put(path, "old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_changes_nothing_and_is_told_of_the_file_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    put(path, "old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("no bytes")  # pyright: ignore[reportCallIssue, reportArgumentType] - that is what fails
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.json'$"):
        put(tmp_path / "nowhere" / "a.json", "new")
    with pytest.raises(IsADirectoryError, match=rf"'{tmp_path}'$"):
        put(tmp_path, "new")
