"""The official SDK's low-level server: `python -m fabric.bench.floors.sdk READY DESCRIPTOR`. It answers by itself.

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

from fabric.bench.floors import http

_ECHO = Tool(
    name="echo",
    description="Say it back.",
    input_schema={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)


async def _list(ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[_ECHO])


async def _call(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=(params.arguments or {})["text"])])


async def main(ready: Path, descriptor: int) -> None:
    """Serve."""
    server: Server[Any] = Server("echo", version="1.0.0", on_list_tools=_list, on_call_tool=_call)
    await http.serve(
        server.streamable_http_app(json_response=True, stateless_http=True), ready=ready, descriptor=descriptor
    )


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
