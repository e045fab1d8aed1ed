"""From an author's function to an MCP object: tools, resources, prompts. `Agent` gathers them."""
