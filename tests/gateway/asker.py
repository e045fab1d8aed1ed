"""An agent that asks, waits and tells what changed; a test serves it in its own process."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from fabric_sdk import Agent, Context


class Size(BaseModel):
    size: int


class Asker(Agent):
    """Keeps what it has done, and knows what became of its waiting calls."""

    def __init__(self, name: str = "asker") -> None:
        super().__init__(name, version="0.0.1")
        self.done: list[str] = []
        self.held = asyncio.Event()
        self.cancelled = asyncio.Event()
        for tool in (self.echo, self.order, self.twice, self.hold, self.touch, self.sample, self.roots):
            self.tool(tool)
        self.resource("note://one")(self.note)
        self.resource("note://two")(self.note)

    async def echo(self, text: str) -> str:
        """Say it again."""
        return text

    async def order(self, what: str, ctx: Context) -> str:
        """Ask for a size."""
        self.done.append(f"reserved {what}")
        try:
            size = await ctx.elicit("Which size?", Size)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.done.append(f"ordered {what}")
        return f"{what} {size.content.size}" if size.content else size.action

    async def twice(self, ctx: Context) -> list[int | None]:
        """Ask the same question twice."""
        asked = [await ctx.elicit("Which size?", Size) for _ in range(2)]
        return [size.content.size if size.content else None for size in asked]

    async def hold(self, ctx: Context) -> None:
        """Wait for ever."""
        await ctx.progress(1, 2, "about to wait")
        self.held.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def touch(self, uri: str, ctx: Context) -> None:
        """Say that a resource has changed."""
        await ctx.resource_updated(uri)

    async def sample(self, ctx: Context) -> Any:
        """Have the client's model say something."""
        return (await ctx.sample("Say something nice."))["content"]["text"]

    async def roots(self, ctx: Context) -> list[str]:
        """Ask where the client works."""
        return [root["uri"] for root in await ctx.list_roots()]

    def note(self) -> str:
        """Some text."""
        return "some text"


agent = Asker()
