"""On how many servers each stream is kept: as many as the environment says, else three where a cluster has them.

Above: whoever makes streams, and `fabric doctor`. Below: the environment. While a cluster of three still starts, two of
its servers would take a stream for themselves, and it would stay with one copy for ever: who must not lose a machine
says how many there have to be.
"""

from __future__ import annotations

import os
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError

VARIABLE: Final = "FABRIC_REPLICAS"
USUAL: Final = 3
MOST: Final = 5
"""As JetStream has it."""


def stated() -> int | None:
    """How many the environment says there have to be; `None` for as many as the cluster has, up to the usual.

    Raises:
        ConfigurationError: the variable holds no such number.
    """
    if not (text := os.environ.get(VARIABLE)):
        return None
    if not (text.isdecimal() and 1 <= int(text) <= MOST):
        raise ConfigurationError(f"{VARIABLE} is {text!r}", fix=f"write a number from 1 to {MOST}, or nothing")
    return int(text)
