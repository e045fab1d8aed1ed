"""`fabric gateway`: the gateway alone, in this process, for containers and for more replicas.

Above: `main`. Below: `fabric.gateway.process`.
"""

from __future__ import annotations


def gateway() -> None:
    """Serve MCP for the fabric that FABRIC_NATS_URL names; configured by the environment alone."""
    from fabric.gateway import process  # with the MCP SDK: a second that no other command shall pay

    process.main()
