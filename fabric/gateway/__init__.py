"""The edge: MCP over HTTP becomes calls on the fabric, and nothing is decided twice on the way."""
