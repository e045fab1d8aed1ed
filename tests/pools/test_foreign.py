"""Servers of other libraries, each a file with no import of ours, run as pools of 4 processes. Proves: RT-6, TR-1."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from cli.command import Up, up
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

SERVERS = sorted(Path(__file__).with_name("servers").glob("*.py"))
AGENTS = {"on_fastmcp": "on-fastmcp", "on_mcp": "on-mcp", "on_lowlevel": "on-low-level"}
CALLS, AT_ONCE = 400, 50


@asynccontextmanager
async def client_of(node: Up) -> AsyncGenerator[Client]:
    """The official SDK's client."""
    headers = {"Authorization": f"Bearer {node.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(node.mcp_url, http_client=http)) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    """A fabric with four processes for each server."""
    with up("--ephemeral", *SERVERS, "--processes", "4", folder=tmp_path_factory.mktemp("foreign")) as node:
        yield node


async def test_their_tools_are_listed_under_the_names_of_their_servers(node: Up) -> None:
    assert not [server for server in SERVERS if "fabric" in server.read_text().partition('"""\n')[2]]
    async with client_of(node) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {f"{name}_who" for name in AGENTS.values()}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.stem)
async def test_400_calls_reach_all_4_processes(node: Up, server: Path) -> None:
    tool, pids, room = f"{AGENTS[server.stem]}_who", Counter[int](), asyncio.Semaphore(AT_ONCE)

    async def call(text: str) -> None:
        async with room:
            said = (await client.call_tool(tool, {"text": text})).structured_content
        assert said is not None
        assert said["text"] == text
        pids[said["pid"]] += 1

    async with client_of(node) as client, asyncio.TaskGroup() as group:
        for number in range(CALLS):
            group.create_task(call(f"call {number}"))
    mine = {pid for name, pid in node.pids.items() if name.startswith(server.stem)}
    assert len(mine) == 4
    assert set(pids) == mine, f"every process takes its share: {pids}"
