"""What a log line looks like, and what it never shows. Proves: OP-2, SE-7."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric import logs
from fabric.settings import load_settings
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.scope import Scope, Trace, current_asker, current_scope

TRACE = "0af7651916cd43dd8448eb211c80319c"
log = logging.getLogger("fabric.test")


@pytest.fixture(autouse=True)
def _as_before() -> Generator[None]:
    """What a test configures is gone after it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def said(path: Path) -> list[dict[str, object]]:
    """The lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_of_json_with_its_traceback(tmp_path: Path) -> None:
    logs.configure(load_settings(log_file=tmp_path / "log"))
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it\nfailed %d times", 2)
    (line,) = said(tmp_path / "log")
    assert (line["message"], line["level"], line["logger"]) == ("it\nfailed 2 times", "error", "fabric.test")
    assert "ValueError: two\nlines" in str(line["exception"])
    assert str(line["timestamp"]).endswith("Z")


def test_who_and_what_it_is_about_is_read_from_the_call(tmp_path: Path) -> None:
    logs.configure(load_settings(log_file=tmp_path / "log"))
    scope = Scope(0.0, "ann", Trace(f"00-{TRACE}-b7ad6b7169203331-01"))
    scoped = current_scope.set(scope)
    asked = current_asker.set(Context(scope, agent="hello", instance="0a1b"))
    log.warning("look")
    current_asker.reset(asked)
    current_scope.reset(scoped)
    log.warning("and now")
    one, other = said(tmp_path / "log")
    assert (one["agent"], one["instance"], one["principal"], one["trace_id"]) == ("hello", "0a1b", "ann", TRACE)
    assert not {"agent", "principal", "trace_id", "task_id"} & set(other)


def test_text_is_for_people_and_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load_settings(log_format="text"))
    log.warning("a lie\n2026-01-01 [info] all is well \x1b[2J")
    (line,) = capsys.readouterr().err.splitlines()
    assert "a lie\\n2026-01-01" in line
    assert "\x1b" not in line


UNSEEN = "\x1b[2J\x9b2J\x85\u2028\u202e"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_was_raised_speaks_to_no_terminal_and_forges_no_line(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(load_settings(log_format=log_format))
    log.warning("said %s", UNSEEN)
    try:
        raise ValueError(f"a lie\n2026-01-01 [info] all is well {UNSEEN}")
    except ValueError:
        log.exception("it failed")
    written = capsys.readouterr().err
    assert not set(UNSEEN) - {"[", "2", "J"} & set(written)
    lines = written.splitlines()
    assert [line for line in lines if line.startswith("2026-01-01")] == []
    if log_format == "json":
        said = [json.loads(line) for line in lines]
        assert said[0]["message"] == f"said {UNSEEN}"
        assert said[1]["exception"].endswith(UNSEEN)


def test_elsewhere_than_on_a_terminal_it_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load_settings())
    log.warning("look")
    assert json.loads(capsys.readouterr().err)["message"] == "look"


def test_a_file_is_moved_aside_when_it_is_full_and_only_so_many_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_PROCESS", "hello-1")
    logs.configure(load_settings(log_file=tmp_path / "fabric.log", log_file_size=1024, log_file_count=2))
    for number in range(60):
        log.warning("line %d", number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["fabric.hello-1.log", "fabric.hello-1.log.1", "fabric.hello-1.log.2"]
    assert all(path.stat().st_size <= 1024 for path in tmp_path.iterdir())
    assert (tmp_path / files[0]).stat().st_mode & 0o077 == 0
    assert said(tmp_path / files[0])[-1]["message"] == "line 59"


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="FABRIC_LOG_FILE"):
        logs.configure(load_settings(log_file=tmp_path / "no" / "log"))


SECRETS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=40)


@given(SECRETS, st.text(max_size=30))
def test_what_a_process_was_given_is_hidden_wherever_it_stands(secret: str, around: str) -> None:
    hidden = logs.masked(f"{around}{secret}{around}", [secret])
    assert secret not in hidden or secret in around


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("nats://me:s3cret@host:4222 is away", "nats://***@host:4222 is away"),
        ("authorization: Bearer abc.def", "authorization: Bearer ***"),
        ("the key fab_0a1b2c_Zm9v-bar_x opens", "the key *** opens"),
        ("eyJhbGciOi.eyJzdWIi.c2ln was refused", "*** was refused"),
        ("http://host:8420/mcp is at 10:30, ann@example.com", "http://host:8420/mcp is at 10:30, ann@example.com"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, left: str) -> None:
    assert logs.masked(text) == left


def test_secrets_are_known_wherever_the_settings_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("long-enough\n")
    monkeypatch.setenv("FABRIC_TOKEN_FILE", str(token))
    monkeypatch.setenv("FABRIC_NATS_URL", "nats://a:pass%2Fword@h:1,nats://b:other-one@h:2")
    assert set(logs.given(load_settings())) == {"long-enough", "pass%2Fword", "pass/word", "other-one"}
