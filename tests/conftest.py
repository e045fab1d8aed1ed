"""Fixtures of the whole suite. Every server in it is real, private, and on a free port."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from support.running import Running, running_fabric

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed may be no text; it has to travel to the process that reports it all the same."""
    report = yield
    report.sections = [(name, said.encode(errors="backslashreplace").decode()) for name, said in report.sections]
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def hello_fabric() -> Generator[Running]:
    """A fabric with two workers of the agent `hello`, shared by all tests that break nothing."""
    env = {"FABRIC_TRACE_SAMPLING": "0"}  # what a test sees of a trace is no matter of chance
    with running_fabric(str(HERE / "agents" / "hello.py"), "--processes", "2", env=env) as running:
        yield running


@pytest.fixture(scope="session")
def mcp_url(hello_fabric: Running) -> str:
    return hello_fabric.mcp_url


@pytest.fixture(scope="session")
def mcp_token(hello_fabric: Running) -> str:
    assert hello_fabric.token is not None
    return hello_fabric.token


@pytest.fixture(scope="session")
def conformance_url() -> Generator[str]:
    """A gateway without a token whose root is the conformance suite's server, served by a pool of two workers."""
    target = str(HERE / "conformance" / "everything.py")
    with running_fabric(
        f"everything={target}:server", "--processes", "2", "--anonymous", "--root", "everything"
    ) as running:
        yield running.mcp_url.replace("127.0.0.1", "localhost")
