"""How processes that serve calls use Python's garbage collector.

Above: worker and gateway processes. Below: `gc`.
"""

from __future__ import annotations

import gc
from typing import Final

_ALLOCATIONS: Final = 10_000
"""Objects more than before that start a look at the young ones. Python's 700 are what a few dozen calls in hand have:
nearly all of them go without the collector's help, and looking at them again and again costs a thirtieth of a call."""


def settle() -> None:
    """Call once, when all is ready: what is there now stays, and no collection looks at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)
