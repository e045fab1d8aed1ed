"""A low-level server of the `mcp` SDK as anybody writes one: it knows nothing of the fabric."""

import os
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent, Tool

WHO = Tool(
    name="who",
    description="Say the text back, and who says it.",
    input_schema={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)


async def list_tools(context: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[WHO])


async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    text = str((params.arguments or {})["text"])
    return CallToolResult(content=[TextContent(text=text)], structured_content={"text": text, "pid": os.getpid()})


server: Server[Any] = Server("On Low-Level", version="2.0.0", on_list_tools=list_tools, on_call_tool=call_tool)
