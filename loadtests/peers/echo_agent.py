"""The same tool as an agent, which counts the requests that reach its worker."""

from __future__ import annotations

from fabric_sdk import Agent, Context
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.pipeline import Request


class Counted(Agent):
    """Counts what arrives, whatever it asks for."""

    count = 0

    async def handle(self, context: Context, request: Request) -> Body:
        self.count += 1
        return await super().handle(context, request)


agent = Counted("echo", version="1.0.0", description="Says things back.")


@agent.tool(annotations={"readOnlyHint": True})
async def echo(text: str) -> str:
    """Say it back."""
    return text


@agent.tool(annotations={"readOnlyHint": True})
async def count() -> int:
    """How many requests arrived, this one among them."""
    return agent.count
