"""Fixtures of the gateway's tests: a client of the shared fabric, and an agent that shows what arrived at a worker."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx
import pytest
from support.replicas import Replica, replicas
from support.running import Running, running_fabric
from support.waiting import until

from gateway.asker import Asker
from gateway.client import Client
from gateway.probe import serving
from gateway.probing import probe

__all__ = ["probe"]

HERE = Path(__file__).parent

MAX_CONCURRENT = 4
MAX_BODY = 64 * 1024
MAX_HEADER = 8 * 1024
CALL_TIMEOUT = 17
"""Seconds: a little more than it takes to notice that a worker is lost."""


@pytest.fixture(scope="package")
def strict_fabric() -> Generator[Running]:
    """A fabric with small limits, on IPv6 where there is any, whose agent `victim` may be treated badly."""
    env = {
        "FABRIC_MAX_CONCURRENT": str(MAX_CONCURRENT),
        "FABRIC_MAX_BODY": str(MAX_BODY),
        "FABRIC_MAX_HEADER": str(MAX_HEADER),
        "FABRIC_CALL_TIMEOUT": str(CALL_TIMEOUT),
        "FABRIC_ALLOWED_HOSTS": "gateway.example",
        "FABRIC_ALLOWED_ORIGINS": "https://app.example",
    }
    pools = [str(HERE.parent / "agents" / "hello.py"), str(HERE / "victim.py")]
    with running_fabric(*pools, "--processes", "2", "--host", _loopback(), env=env) as running:
        yield running


def _loopback() -> str:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return "127.0.0.1"
    return "::1"


@pytest.fixture(scope="module")
async def mcp(mcp_url: str, mcp_token: str) -> AsyncGenerator[Client]:
    """A client of the shared fabric."""
    async with Client.to(mcp_url, mcp_token) as client:
        yield client


@pytest.fixture(scope="package")
def bare_fabric() -> Generator[Running]:
    """A fabric without agents, to which tests bring their own."""
    with running_fabric() as running:
        yield running


@pytest.fixture(scope="package")
def three(bare_fabric: Running) -> Generator[list[Replica]]:
    """Three more gateways of it; a test that kills one starts it again."""
    with replicas(bare_fabric, 3) as started:
        yield started


@pytest.fixture(scope="module")
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    """Connections without the settings that the environment has for proxies."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(trust_env=False, timeout=30, limits=limits) as http:
        yield http


@pytest.fixture(scope="module")
async def asker(bare_fabric: Running, three: list[Replica]) -> AsyncGenerator[Asker]:
    """An agent of that fabric that lives in this process, known to all gateways."""
    asker = Asker()
    async with serving(bare_fabric.nats_url, asker):
        for replica in three:
            async with Client.to(replica.url, bare_fabric.token) as client:
                await knows(client, "asker_order")
        yield asker


async def knows(client: Client, tool: str, *, there: bool = True) -> None:
    """Wait until a gateway lists a tool, or lists it no more."""

    async def listed() -> list[str]:
        return [each["name"] for each in (await client.result("tools/list"))["tools"]]

    await until(listed, lambda names: (tool in names) is there, what=f"the list, as for {tool}")
