"""The way for hosts that only start programs: JSON-RPC lines on standard input and output become MCP over HTTP.

Above: `fabric mcp`. Below: HTTP. It knows a gateway's URL and nothing of the fabric behind it.
"""
