"""A server that keeps, and workers in this process."""

from __future__ import annotations

from support.durable import keeping, serve, server

__all__ = ["keeping", "serve", "server"]
