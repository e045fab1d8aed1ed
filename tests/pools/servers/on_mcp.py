"""A server of the `mcp` SDK as anybody writes one: it knows nothing of the fabric."""

import os

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("On MCP")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def who(text: str) -> dict[str, str | int]:
    """Say the text back, and who says it."""
    return {"text": text, "pid": os.getpid()}
