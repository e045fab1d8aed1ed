"""A fastmcp server as anybody writes one: it knows nothing of the fabric."""

import os

from fastmcp import FastMCP

mcp = FastMCP("On FastMCP")


@mcp.tool(annotations={"readOnlyHint": True})
async def who(text: str) -> dict[str, str | int]:
    """Say the text back, and who says it."""
    return {"text": text, "pid": os.getpid()}
