"""The official SDK's server as its documentation writes it: `python -m fabric.bench.floors.mcpserver READY DESCRIPTOR`.

Above: `ground`. Below: `mcp` with its defaults, its `MCPServer` around a function, and its own HTTP application: JSON
responses, no sessions. It finds the schema of a tool in its own table, where the low-level server in `sdk` lists all
tools for each call, unless it is told how to look one up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop
from mcp.server.mcpserver import MCPServer  # noqa: TID251 - the floor is the bare library

from fabric.bench.echo import agent, echo
from fabric.bench.floors import http


async def main(ready: Path, descriptor: int) -> None:
    """Serve the same tool as the product's worker, with the same results."""
    server = MCPServer(agent.name, version=agent.version, log_level="ERROR")
    server.add_tool(echo)
    await http.serve(
        server.streamable_http_app(json_response=True, stateless_http=True), ready=ready, descriptor=descriptor
    )


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
