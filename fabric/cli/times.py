"""Times as people type and read them: `90s`, `2h`, ISO 8601.

Above: commands that take or show times. Below: the clock.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST: Final = 36_525 * 86_400
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_TIME: Final = "2026-12-24T18:00, with a zone as Z or +01:00 if it is not your own"


def seconds(text: str) -> float:
    """How long `90s`, `10m` or `1.5h` is.

    Raises:
        ConfigurationError: it is no duration, or none that anybody lives to see.
    """
    if (found := _DURATION.fullmatch(text.strip())) is None:
        raise ConfigurationError(f"{text!r} is no duration", fix="write 500ms, 90s, 10m, 2h or 7d")
    if (long := float(found[1]) * _UNITS[found[2]]) > _LONGEST:
        raise ConfigurationError(f"{text!r} is longer than a century", fix="write a shorter time")
    return long


def moment(text: str) -> datetime:
    """A time in ISO 8601; without a zone, in that of this machine.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{text!r} is no time", fix=f"write {_TIME}") from None


def past(text: str) -> datetime:
    """A time in ISO 8601, or how long ago.

    Raises:
        ConfigurationError: it is neither.
    """
    if _DURATION.fullmatch(text.strip()) is not None:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    try:
        return moment(text)
    except ConfigurationError as mistake:
        mistake.fix = f"write 10m for ten minutes ago, or {_TIME}"
        raise


def place(text: str) -> datetime | int:
    """A place among the events: a sequence number, a time, or how long ago."""
    return int(text) if text.isdecimal() and len(text) < 19 else past(text)


def brief(duration: float) -> str:
    """Seconds in the largest unit that is not too coarse."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if duration >= length:
            return f"{duration / length:.0f}{unit}"
    return f"{duration:.0f}s"


def since(unix: float) -> str:
    """How long ago, or how soon."""
    passed = time.time() - unix
    return f"{brief(passed)} ago" if passed >= 0 else f"in {brief(-passed)}"


def full(unix: float | None) -> str | None:
    """A time, and how long ago; nothing for none."""
    if not unix:
        return None
    if (at := _local(unix)) is None:
        return f"{unix:g}"
    return f"{at.isoformat(sep=' ', timespec='seconds')} ({since(unix)})"


def short(unix: float) -> str:
    """A time of this year, to the second."""
    at = _local(unix)
    return f"{unix:g}" if at is None else f"{at:%m-%d %H:%M:%S}"


def _local(unix: float) -> datetime | None:
    """A time in the zone of this machine; nothing for what is none, as others may have written any number."""
    try:
        return datetime.fromtimestamp(unix).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
