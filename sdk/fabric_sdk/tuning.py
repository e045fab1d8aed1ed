"""What a worker's environment may say of how it takes tasks: read here, and nowhere else.

Above: the taker, `fabric doctor`. Below: the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.streams import TASK_ACK_WAIT
from fabric_sdk.contracts.task import PRIORITIES, Priority
from fabric_sdk.routing.tasks import WEIGHTS

ACK_WAIT: Final = "FABRIC_TASK_ACK_WAIT"
"""Seconds without a sign of life after which a task is another worker's, for lanes that this process first needs."""
CLASS_WEIGHTS: Final = "FABRIC_TASK_WEIGHTS"
"""How often each class is served while all wait, from critical to low: `64,16,4,1`."""
VARIABLES: Final = (ACK_WAIT, CLASS_WEIGHTS)

_LONGEST_ACK_WAIT: Final = 3600
_LARGEST_WEIGHT: Final = 1000


def ack_wait() -> float:
    """Seconds.

    Raises:
        ConfigurationError: the variable holds no such number.
    """
    text = os.environ.get(ACK_WAIT) or str(TASK_ACK_WAIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _LONGEST_ACK_WAIT:
        raise ConfigurationError(
            f"{ACK_WAIT} is {text!r}", fix=f"write a number of seconds from 1 to {_LONGEST_ACK_WAIT}"
        )
    return seconds


def weights() -> Mapping[Priority, int]:
    """The weight of each class.

    Raises:
        ConfigurationError: the variable does not hold four such numbers.
    """
    if not (text := os.environ.get(CLASS_WEIGHTS)):
        return WEIGHTS
    stated = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(stated) != len(PRIORITIES) or not all(1 <= weight <= _LARGEST_WEIGHT for weight in stated):
        raise ConfigurationError(
            f"{CLASS_WEIGHTS} is {text!r}",
            fix=f"write four numbers from 1 to {_LARGEST_WEIGHT}, for {', '.join(PRIORITIES)}: 64,16,4,1",
        )
    return dict(zip(PRIORITIES, stated, strict=True))
