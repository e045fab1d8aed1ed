"""The smallest agent.

fabric up examples/hello/agent.py
"""

from fabric_sdk import Agent

agent = Agent("hello")


@agent.tool(annotations={"readOnlyHint": True})
def echo(text: str) -> str:
    """Say it back."""
    return text


@agent.tool(annotations={"readOnlyHint": True})
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b
