"""A server that keeps, a client of it, and workers: in this process, or in others that may die."""

from __future__ import annotations

from uuid import uuid4

import pytest
from support.durable import Serve, breakable, fabric, keeping, serve, server

from fabric_sdk import Agent

__all__ = ["Serve", "breakable", "fabric", "keeping", "serve", "server"]


@pytest.fixture
def agent() -> Agent:
    """An agent that no other test knows."""
    return Agent(f"a{uuid4().hex[:12]}")
