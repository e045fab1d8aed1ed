"""How processes that serve calls use Python's garbage collector: seldom, as all of this package, and less to look at.

Above: worker and gateway processes. Below: `gc`.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Call once, when all is ready: what is there now stays, and no collection looks at it again."""
    gc.collect()
    gc.freeze()
