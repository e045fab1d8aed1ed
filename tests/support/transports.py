"""What tests look at inside of transports."""

from __future__ import annotations

from typing import Any

from fabric_sdk.transports.base import Transport


def broker_of(transport: Transport) -> Any:
    """The broker's own transport, without what may stand around it: only that one keeps interests."""
    return transport.__dict__.get("_broker", transport)
