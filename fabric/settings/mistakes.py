"""What is wrong with settings, in one line each: where, what, and what is right.

Above: `loading`, `layers`. Below: the model's descriptions. A value that may hold a secret is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from fabric.settings.keys import POOLS, field, is_secret, variable
from fabric.settings.model import PREFIX, PoolSettings, Settings
from fabric_sdk.contracts.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from fabric.settings.document import Key
    from fabric.settings.layers import Origin

_VARIABLE: Final = re.compile(rf"\b{PREFIX}([A-Z_]+)\b")
_WORDS: Final = {"model_type": "it has to be a table", "dict_type": "it has to be a table", "missing": "it is missing"}
_NAME: Final = "a pool's name has 1 to 64 letters, digits, _ or -"


class SettingsError(ConfigurationError):
    """Some settings are wrong."""

    def __init__(self, lines: Iterable[str]) -> None:
        """One line for each wrong setting."""
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


def unknown(values: Mapping[str, Any], origins: Mapping[Key, Origin]) -> list[str]:
    """A line for each name that is no setting."""
    names = [name for name in values if name not in Settings.model_fields]
    return [f"{_head((name,), origins)}: {_no_such(name, Settings.model_fields)}" for name in names]


def wrong(error: ValidationError, origins: Mapping[Key, Origin]) -> list[str]:
    """A line for each value that the model does not take."""
    return [_line(detail, origins) for detail in error.errors(include_url=False)]


def _line(detail: ErrorDetails, origins: Mapping[Key, Origin]) -> str:
    loc = tuple(str(part) for part in detail["loc"] if isinstance(part, str))
    if not loc:  # a rule over several settings, which names them itself
        return _rule(_words(detail), origins)
    key, head = ".".join(loc), _head(loc, origins)
    if detail["type"] == "extra_forbidden":
        return f"{head}: {_no_such(loc[-1], PoolSettings.model_fields)}"
    if loc[-1] == "[key]":
        return f"{_head(loc[:-1], origins)}: {_NAME}"
    # An address may hold a password, where none is wanted, too.
    hidden = detail["type"] in _WORDS or is_secret(loc[0]) or "@" in str(detail["input"])
    shown = "" if hidden else f"{detail['input']!r}: "
    found = field(key) or field(loc[0])
    takes = f"; it takes {found.description}" if found is not None and loc != (POOLS, loc[-1]) else ""
    return f"{head}: {shown}{_words(detail)}{takes}"


def _head(key: Key, origins: Mapping[Key, Origin]) -> str:
    """Where it stands, and its name as it is called there."""
    origin = next((origins[key[:size]] for size in range(len(key), 0, -1) if key[:size] in origins), None)
    if origin is None or origin.kind in ("command line", "default"):
        return variable(key[0])
    if origin.kind == "file":
        return f"{origin.where}: {'.'.join(key)}"
    return ".".join((origin.where, *key[1:]))


def _rule(words: str, origins: Mapping[Key, Origin]) -> str:
    """It calls settings by their variables; the first that stands in a file leads there."""
    named = (origins.get((found.lower(),)) for found in _VARIABLE.findall(words))
    return next((f"{origin.where}: {words}" for origin in named if origin and origin.kind == "file"), words)


def _no_such(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=2)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    return f"there is no such setting; {meant}"


def _words(detail: ErrorDetails) -> str:
    """Pydantic's message; of one of our own rules only the words that we raised."""
    raised = (detail.get("ctx") or {}).get("error")
    said = str(raised) if isinstance(raised, ValueError) else detail["msg"].lower()
    return _WORDS.get(detail["type"], said)
