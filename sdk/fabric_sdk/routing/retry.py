"""May this call be sent again, and how long to wait before.

Above: patterns. Below: tenacity's arithmetic. The rule in one line: what never began may always be repeated; what
may have begun only when its author says that a repeat does no harm, or the caller gave an idempotency key.
"""

from __future__ import annotations

from typing import Any, Final

from tenacity import wait_random_exponential

from fabric_sdk.contracts.errors import FabricError

FIRST_WAIT: Final = 0.05
"""Seconds that the first repetition waits at most."""
BACKOFF: Final = wait_random_exponential(multiplier=2 * FIRST_WAIT, max=2.0)
"""Those after it: full jitter, a random wait below 100 ms, 200 ms, 400 ms … 2 s."""


def may_repeat(error: BaseException, *, safe: bool) -> bool:
    """Whether a call that ended in `error` may be sent again; `safe`: the work may be done twice without harm."""
    return isinstance(error, FabricError) and error.retryable and (safe or not error.started)


def is_safe(annotations: dict[str, Any] | None) -> bool:
    """Whether MCP tool annotations say that a repeated call changes nothing more (2026-07-28, `ToolAnnotations`)."""
    if not annotations:
        return False
    return bool(annotations.get("readOnlyHint") or annotations.get("idempotentHint"))
