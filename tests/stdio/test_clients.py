"""The official clients reach a fabric through `fabric mcp`, in every era that they speak.

Proves: TR-2
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pytest
from clients import node
from gateway.probe import Probe
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from support.running import FABRIC, Running

from stdio.host import environment

ERAS: dict[Literal["auto", "legacy"], str] = {"auto": "2026-07-28", "legacy": "2025-11-25"}


@asynccontextmanager
async def client(url: str, era: Literal["auto", "legacy"], token: str | None = None) -> AsyncGenerator[Client]:
    """The official Python client, with a bridge of its own."""
    env = environment(**({} if token is None else {"FABRIC_TOKEN": token}))
    program = StdioServerParameters(command=str(FABRIC), args=["mcp", "--url", url], env=env)
    async with Client(stdio_client(program), mode=era) as client:
        yield client


@pytest.mark.parametrize("era", ERAS)
async def test_the_python_client_works(hello_fabric: Running, probe: Probe, era: Literal["auto", "legacy"]) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    waits = probe.waits["quiet" if era == "auto" else "loud"]
    async with client(hello_fabric.mcp_url, era, hello_fabric.token) as mcp:
        assert mcp.protocol_version == ERAS[era]
        assert {"hello_echo", "probe_raw"} <= {tool.name for tool in (await mcp.list_tools()).tools}
        counted = await mcp.call_tool("hello_count", {"to": 3, "pause": 0.0}, progress_callback=tell)
        assert (counted.structured_content, told) == (
            {"result": 3},
            [(1, 3, "at 1"), (2, 3, "at 2"), (3, 3, "at 3")],
        )
        read = await mcp.read_resource("notes://hello/Montag für Ann")
        assert read.contents[0].uri == "notes://hello/Montag für Ann"

        async with anyio.create_task_group() as group:
            group.start_soon(mcp.call_tool, "probe_wait", {"kind": "quiet" if era == "auto" else "loud"})
            await waits.begun.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await waits.cancelled.wait()
        echoed = await mcp.call_tool("hello_echo", {"text": "two\nlines, ü"})
        assert echoed.structured_content == {"result": "two\nlines, ü"}


@pytest.mark.parametrize(
    ("mode", "era"), [("v1", "legacy"), ("auto", "modern"), ("legacy", "legacy"), ("modern", "modern")]
)
def test_the_typescript_clients_work(hello_fabric: Running, mode: str, era: str) -> None:
    node.need_packages("@modelcontextprotocol/sdk", "@modelcontextprotocol/client")
    script = node.HERE.parent / "stdio" / "ts.mjs"
    done = subprocess.run(
        [node.node(), script, mode, FABRIC, "mcp", "--url", hello_fabric.mcp_url],
        env=environment(FABRIC_TOKEN=str(hello_fabric.token), TOOL="hello_echo"),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["era"], "hello_echo" in answer["tools"]) == (era, True)
