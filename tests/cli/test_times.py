"""Times as people type them. Proves: no row."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from fabric.cli.times import brief, full, moment, past, place, seconds, short, since
from fabric_sdk.contracts.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "long"), [("500ms", 0.5), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 7d ", 604_800), ("0s", 0)]
)
def test_a_duration_has_a_unit(text: str, long: float) -> None:
    assert seconds(text) == long


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 s", "1w", "1e3s", "9999999999s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no duration"):
        seconds(text)


def test_nobody_waits_for_more_than_a_century() -> None:
    assert seconds("36525d") == 36_525 * 86_400
    with pytest.raises(ConfigurationError, match="longer than a century"):
        seconds("36526d")


def test_a_time_without_a_zone_is_this_machines_own() -> None:
    assert moment("2026-12-24T18:00+01:00") == datetime(2026, 12, 24, 17, tzinfo=UTC)
    assert moment("2026-12-24T18:00") == datetime(2026, 12, 24, 18).astimezone()
    assert moment("2026-12-24").astimezone().hour == 0


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "25:00", "0001-01-01", "9999-12-31T23:59:59-10:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no time"):
        moment(text)


def test_a_place_is_a_number_a_time_or_how_long_ago() -> None:
    assert place("17") == 17
    assert place("2026-12-24T18:00Z") == datetime(2026, 12, 24, 18, tzinfo=UTC)
    ago = place("10m")
    assert isinstance(ago, datetime)
    assert timedelta(minutes=9) < datetime.now(UTC) - ago < timedelta(minutes=11)
    for text in ("9" * 30, "9999999d", "-1"):
        with pytest.raises(ConfigurationError):
            past(text) if text.endswith("d") else place(text)


def test_how_long_ago_is_said_in_one_unit() -> None:
    assert [brief(each) for each in (0.4, 59, 60, 7200, 200_000)] == ["0s", "59s", "1m", "2h", "2d"]
    assert since(time.time() - 130) == "2m ago"
    assert since(time.time() + 130) == "in 2m"
    assert full(None) is None
    assert full(1e30) == "1e+30"
    assert str(full(time.time() - 5)).endswith("(5s ago)")


def test_a_time_that_is_none_is_said_as_a_number() -> None:
    assert short(datetime(2026, 12, 24, 18, 1, 2).astimezone().timestamp()) == "12-24 18:01:02"
    assert [short(each) for each in (1e300, -1e300)] == ["1e+300", "-1e+300"]
