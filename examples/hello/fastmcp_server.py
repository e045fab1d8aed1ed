"""A fastmcp server as it may exist already: it knows nothing of the fabric, and becomes the agent `hello-fastmcp`.

fabric up examples/hello/fastmcp_server.py
"""

from fastmcp import FastMCP

mcp = FastMCP("Hello FastMCP")


@mcp.tool(annotations={"readOnlyHint": True})
def echo(text: str) -> str:
    """Say it back."""
    return text


@mcp.tool(annotations={"readOnlyHint": True})
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    mcp.run()
