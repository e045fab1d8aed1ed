"""A gateway that dies under its hosts, and comes back: what was under way is lost, and nothing else.

Proves: TR-2
"""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
from cli.command import HELLO, Up, part, signal_part, up
from gateway.client import Json, request
from support.waiting import eventually

from fabric.embedded.ports import is_free
from stdio.host import Host


async def test_a_gateway_that_restarts_loses_what_is_under_way_and_no_more(tmp_path: Path) -> None:
    with up("--data", tmp_path / "data", HELLO, folder=tmp_path) as node:
        async with (
            Host.of("--data", tmp_path / "data") as modern,
            Host.of("--data", tmp_path / "data") as session,
        ):
            await session.shake_hands()
            slow: Json = {"name": "hello_whoami", "arguments": {"wait": 1.5}}
            await modern.send(request("tools/call", slow, number="slow"))
            await session.send({"jsonrpc": "2.0", "id": "slow", "method": "tools/call", "params": slow})
            echo: Json = {"name": "hello_echo", "arguments": {"text": "hi"}}
            await modern.ask("tools/call", echo)
            await session.ask_in_session("tools/call", echo)

            killed = signal_part(node.pid, "gateway", signal.SIGKILL)
            for host in (modern, session):
                lost = await host.answer("slow")
                assert (lost["error"]["code"], "unknown" in lost["error"]["message"]) == (5020, True), lost
            await _back(node, killed)

            assert "result" in await modern.ask("tools/call", echo)
            assert "result" in await session.ask_in_session("tools/call", echo), "the session lives in the fabric"
            assert (await modern.end(), await session.end()) == (0, 0)
            assert not modern.log


async def _back(node: Up, killed: int) -> None:
    port = int(node.mcp_url.rsplit(":", 1)[1].split("/")[0])

    def serves() -> bool:
        return part(node.pid, "gateway") not in (None, killed) and not is_free(port)

    await eventually(serves, what="the gateway", seconds=20)
    await eventually(lambda: _ready(node.mcp_url), what="its readiness", seconds=20)


def _ready(url: str) -> bool:
    try:
        return httpx.get(url.replace("/mcp", "/readyz"), trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
