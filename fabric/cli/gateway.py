"""`fabric gateway`: the gateway alone, in this process, for containers and for more replicas."""

from __future__ import annotations

from fabric.gateway import process


def gateway() -> None:
    """Serve MCP for the fabric that FABRIC_NATS_URL names; configured by the environment alone."""
    process.main()
