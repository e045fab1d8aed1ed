"""MCP servers of other libraries become agents."""
