"""Real clients of the MCP world, in TypeScript, that must work against the gateway unchanged."""
