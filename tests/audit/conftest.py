"""A server that keeps, and one that a test may break."""

from __future__ import annotations

from support.durable import breakable, fabric, keeping, server

__all__ = ["breakable", "fabric", "keeping", "server"]
