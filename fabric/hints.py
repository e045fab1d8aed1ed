"""What the tools of the platform's own agents say of themselves, in MCP's words: what a call of one may do.

Above: the agents `durable`, `access`, `approvals`, `audit` and the registry. Below: nothing.
"""

from __future__ import annotations

from typing import Final

READS: Final = {"readOnlyHint": True}
"""It changes nothing."""
ADDS: Final = {"destructiveHint": False}
"""It makes something new, each time."""
CHANGES: Final = {"destructiveHint": False, "idempotentHint": True}
"""It takes nothing away, and once more changes nothing more."""
DESTROYS: Final = {"destructiveHint": True, "idempotentHint": True}
"""It takes away, and once more takes nothing more."""
