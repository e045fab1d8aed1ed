"""A server for the tables of each test."""

from __future__ import annotations

from support.fresh import fabric, nats

__all__ = ["fabric", "nats"]
