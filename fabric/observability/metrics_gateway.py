"""What a gateway counts: the calls that it forwards, what it turns away, and what it has in hand.

Above: `fabric.gateway`. Below: `metrics_calls`.
"""

from __future__ import annotations

from typing import Final

from fabric.observability.metrics import METRICS
from fabric.observability.metrics_calls import Calls, Sizes

CALLS: Final = Calls(
    METRICS,
    "fabric_gateway_call",
    "a gateway's request to an agent to its answer",
    ("method", "agent", "tool", "class"),
)
"""The class is `read` for what may be repeated without harm, `platform` for the fabric's own agents, else `write`."""
SIZES: Final = Sizes(METRICS, "fabric_gateway_call", "Bytes of params that went to agents, and of their results.")
REFUSED: Final = METRICS.counter(
    "fabric_gateway_refusals", "Requests turned away before they were understood, by HTTP status.", ("status",)
)
THROTTLED: Final = METRICS.counter(
    "fabric_gateway_throttled", "Requests that a limit stood against; `lockout` for who is locked out.", ("rule",)
)
DENIED: Final = METRICS.counter("fabric_gateway_forbidden", "Requests that the policy does not allow.")

for _each in ("401", "429", "503"):  # there before the first, so that a first one shows as a rise
    REFUSED.of(_each)
THROTTLED.of("lockout")
DENIED.of()
