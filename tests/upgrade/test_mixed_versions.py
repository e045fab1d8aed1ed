"""A rolling upgrade: workers and callers of an older and of a newer version beside ours, on one fabric.

Proves: OP-5 (versions side by side), OP-6 (the upgrade's runbook rests on it)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx
import pytest
from support.running import Running
from support.waiting import until

from fabric_sdk import Fabric
from upgrade.peer import NEWER, OLDER, Caller, Dialect, Peer, open_client

DIALECTS = pytest.mark.parametrize("dialect", [OLDER, NEWER], ids=repr)


@pytest.fixture
async def fabric(hello_fabric: Running) -> AsyncGenerator[Fabric]:
    """A client of this version."""
    async with Fabric.connect(hello_fabric.nats_url) as fabric:
        yield fabric


@pytest.fixture
async def peer(hello_fabric: Running, fabric: Fabric, dialect: Dialect) -> AsyncGenerator[Peer]:
    """A worker of the other version, once the registry lists it."""
    async with AsyncExitStack() as stack:
        peer = Peer(await open_client(hello_fabric.nats_url), f"{dialect}-{uuid4().hex[:6]}", dialect)
        await peer.start()
        stack.push_async_callback(peer.stop)

        async def listed() -> list[str]:
            found = await fabric.agent("registry").call("catalogue")
            return [each["name"] for each in found["agents"] if each["instances"]]

        await until(listed, lambda names: peer.agent in names, what="the catalogue")
        yield peer


@DIALECTS
async def test_our_callers_use_workers_of_another_version(
    hello_fabric: Running, fabric: Fabric, peer: Peer, dialect: Dialect
) -> None:
    result = await fabric.agent(peer.agent).call("echo", {"text": "across versions"}, key="k-1")
    assert "across versions" in str(result)
    assert peer.heard[-1]["Fab-Key"] == "k-1", "they may use what they know, and pass over the rest"

    task = await fabric.agent(peer.agent).start("echo", {"text": "kept"}, key=f"k-{uuid4()}")
    assert "kept" in str(await task.result(timeout=15))
    assert (await task.status()).state == "completed"

    at = f"{hello_fabric.mcp_url.removesuffix('/mcp')}/api/tools/{peer.agent}_echo"
    lines = {"Authorization": f"Bearer {hello_fabric.token}"}
    async with httpx.AsyncClient(trust_env=False, headers=lines) as http:

        async def asked() -> httpx.Response:
            return await http.post(at, json={"text": "through the gateway"})

        answer = await until(asked, lambda answer: answer.status_code != 404, what="the gateway's catalogue")
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"][0]["text"] == "through the gateway"


@DIALECTS
async def test_callers_of_another_version_use_our_workers(hello_fabric: Running, dialect: Dialect) -> None:
    client = await open_client(hello_fabric.nats_url)
    try:
        caller = Caller(client, dialect)
        said = await caller.call("hello", "echo", {"text": "hi"})
        assert said["content"][0]["text"] == "hi"
        counted = await caller.call("hello", "count", {"to": 2, "pause": 0})
        assert counted["structuredContent"]["result"] == 2, "progress on the way is passed over"
        record = await caller.run_task("hello", "echo", {"text": "kept"})
        assert record["state"] == "completed"
        assert record["result"]["content"][0]["text"] == "kept"
    finally:
        await client.close()
