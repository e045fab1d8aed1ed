"""FastMCP's proxy in front of an upstream: as its documentation writes it, or around one client that all calls share.

python fastmcp_proxy.py default|shared UPSTREAM PORT      (in the environment of FastMCP)
"""

import asyncio
import sys

from fastmcp import Client
from fastmcp.server import create_proxy

HOW = {"transport": "http", "host": "127.0.0.1", "show_banner": False, "log_level": "warning"}


async def serve(kind: str, upstream: str, port: int) -> None:
    if kind == "default":
        proxy = create_proxy({"mcpServers": {"echo": {"url": upstream, "transport": "http"}}})
        await proxy.run_http_async(port=port, **HOW)
        return
    async with Client(upstream) as client:
        await create_proxy(client).run_http_async(port=port, **HOW)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
