"""The official SDK's low-level server, answering itself: `python -m fabric.bench.floors.sdk READY DESCRIPTOR [TOOLS]`.

Above: `ground`. Below: `mcp` with its defaults, and its own HTTP application: JSON responses, no sessions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import uvloop
from mcp.server.context import ServerRequestContext  # noqa: TID251 - the floor is the bare library
from mcp.server.lowlevel import Server  # noqa: TID251
from mcp_types import (  # noqa: TID251
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

from fabric.bench.echo import agent, echo
from fabric.bench.floors import http
from fabric.bench.many import with_tools


async def _call(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    text = await echo(**(params.arguments or {}))
    return CallToolResult(content=[TextContent(text=text)], structured_content={"result": text})


async def main(ready: Path, descriptor: int, count: int = 1) -> None:
    """Serve the same tools as the product's worker, with the same results."""
    tools = [Tool.model_validate(tool) for tool in (await with_tools(agent.name, count).describe()).tools]

    async def list_tools(ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    server: Server[Any] = Server(agent.name, version=agent.version, on_list_tools=list_tools, on_call_tool=_call)
    await http.serve(
        server.streamable_http_app(json_response=True, stateless_http=True), ready=ready, descriptor=descriptor
    )


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
