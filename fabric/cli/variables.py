"""Variables of the environment that begin as ours do, and that nothing reads: mistyped, most of them.

Above: `doctor`, `config check`, and the commands that start processes or are one. Below: the settings' names.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Final

from fabric.cli.console import warn
from fabric.cli.environment import SHOWN
from fabric.settings import PREFIX, Settings
from fabric.settings.keys import is_secret, variable
from fabric.settings.passing import HANDED
from fabric.settings.places import CONFIG, ENVIRONMENT
from fabric_sdk import tuning
from fabric_sdk.connecting import SOCKETS
from fabric_sdk.jetstream import replicas

_SETTINGS: Final = frozenset(map(variable, Settings.model_fields))
_OTHERS: Final = frozenset(
    (
        CONFIG,
        ENVIRONMENT,
        *SHOWN,
        *tuning.VARIABLES,
        SOCKETS,
        replicas.VARIABLE,
        *(f"{variable(name)}_FILE" for name in Settings.model_fields if is_secret(name)),
    )
)
_INTERNAL: Final = frozenset(HANDED)
"""What supervisors tell their processes, which may run commands."""


def without_effect() -> dict[str, str]:
    """Each, and what may have been meant."""
    ours = sorted(name.removeprefix(PREFIX) for name in _SETTINGS | _OTHERS)  # what all have in common makes none near
    names = sorted(name.removeprefix(PREFIX) for name in os.environ.keys() - _INTERNAL if name.startswith(PREFIX))
    return {f"{PREFIX}{name}": _hint(get_close_matches(name, ours, n=2)) for name in names if name not in ours}


def _hint(near: list[str]) -> str:
    return f"did you mean {' or '.join(f'{PREFIX}{name}' for name in near)}?" if near else "unset it"


def warn_of_variables() -> None:
    """Say so on standard error."""
    for name, hint in without_effect().items():
        warn(f"{name} is no setting, and so without effect; {hint}")
