"""A server of the official SDK, on HTTP, which asks its client back and speaks by itself.

python speaker.py PORT, with tests/ on PYTHONPATH
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from support.nats_server import tied
from support.running import wait_until

server = MCPServer("speaker")


class Name(BaseModel):
    """What is asked for."""

    name: str


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask the user for a name."""
    answer = await ctx.elicit("Who?", Name)
    return answer.data.name if answer.action == "accept" else answer.action


@server.tool()
async def speak(ctx: Context) -> str:
    """Say on the session's own stream that the tools have changed; tell which session that is."""
    await ctx.session.send_tool_list_changed()
    return (ctx.headers or {}).get("mcp-session-id", "")


@contextmanager
def speaking() -> Generator[str]:
    """The server in a process of its own; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([*tied(), sys.executable, str(Path(__file__)), str(port)], env=env) as process:
        try:
            wait_until(lambda: _listens(port), what="the port of the server")
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
