"""Processes start without what they have no use for, since each restart and each test waits for it. Proves: no row."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("process", "useless"),
    [
        ("fabric.pool.process", {"mcp", "mcp_types", "rich", "uvicorn", "opentelemetry.sdk"}),
        ("fabric.gateway.process", {"mcp", "rich", "opentelemetry.sdk"}),
    ],
)
def test_a_process_loads_nothing_large_that_it_does_not_need(process: str, useless: set[str]) -> None:
    program = f"import {process}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not useless & set(loaded.split())
