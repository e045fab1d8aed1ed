"""A server of the MCP SDK, hosted as it is."""

from __future__ import annotations

from mcp.server import MCPServer

server = MCPServer("shouter")


@server.tool()
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()
