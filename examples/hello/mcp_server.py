"""A server of the `mcp` SDK as it may exist already: it knows nothing of the fabric, and becomes the agent `hello-mcp`.

fabric up examples/hello/mcp_server.py
"""

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

mcp = MCPServer("Hello MCP")


@mcp.tool(annotations=ToolAnnotations(read_only_hint=True))
def echo(text: str) -> str:
    """Say it back."""
    return text


@mcp.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    mcp.run()
