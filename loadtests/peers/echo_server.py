"""The upstream of every peer: FastMCP with one tool, behind a counter of the HTTP requests that arrive.

python echo_server.py PORT      (in the environment of FastMCP)
"""

import sys
from typing import Any

import uvicorn
from fastmcp import FastMCP

mcp = FastMCP("echo")


@mcp.tool
def echo(text: str) -> str:
    """Say it back."""
    return text


class Counter:
    """Counts what passes, and tells at /count."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/count":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"%d" % self.count})
            return
        self.count += scope["type"] == "http"
        await self.app(scope, receive, send)


if __name__ == "__main__":
    uvicorn.run(Counter(mcp.http_app()), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
