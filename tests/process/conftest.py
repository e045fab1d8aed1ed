"""Fixtures of the tests of process supervision."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from process.helpers import Events, Programs


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Supervision has to work in both loops: in one a thread waits for each child, in the other a signal handler."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def programs(tmp_path: Path) -> Generator[Programs]:
    """A test that fails leaves no process behind either."""
    programs = Programs(tmp_path)
    yield programs
    for pid in programs.running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
