"""The public MCP conformance suite, run against the gateway, and the server it is run with."""
