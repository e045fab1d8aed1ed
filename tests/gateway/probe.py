"""An agent that a test serves in its own process, over the NATS of a real fabric, to see what a worker sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import Field

from fabric_sdk import Agent, Context, ToolError
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import HandlerFailed
from fabric_sdk.pipeline import Request
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Servable, Worker


@asynccontextmanager
async def serving(nats_url: str, servable: Servable) -> AsyncGenerator[Worker]:
    """A worker of `servable` in this process, for as long as the block runs."""
    transport = await NatsTransport.connect(nats_url)
    try:
        worker = Worker(transport, servable)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.drain(1.0)
    finally:
        await transport.close()


class Waits:
    """One kind of waiting call: whether one has begun, and whether one was cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self) -> None:
        """Wait for ever."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Probe(Agent):
    """Keeps the requests it gets, as bytes, and knows what became of its waiting calls."""

    def __init__(self) -> None:
        super().__init__("probe", version="0.0.1")
        self.requests: list[bytes] = []
        self.waits = {"quiet": Waits(), "loud": Waits()}
        self.tool(self.raw)
        self.tool(self.wait)
        self.tool(self.talk)
        self.tool(self.stumble)
        self.tool(self.whence)
        self.tool(self.routed)
        self.tool(self.large)
        self.resource("probe://plain/a", mime_type="text/plain")(self.plain)
        self.resource("probe:///tree/{+path}")(self.tree)
        self.resource("urn:probe:one")(self.plain)
        self.prompt(self.ask)

    async def handle(self, context: Context, request: Request) -> Body:
        """As any agent does; `raw` is answered without a look at its params."""
        encoded = request.params.encoded()
        if request.method != "fabric/describe":
            self.requests.append(encoded)
        if request.method == "tools/call" and b'"raw"' in encoded:
            return Body({"content": [], "resultType": "complete"})
        return await super().handle(context, request)

    async def raw(self) -> None:
        """Take anything at all."""

    async def wait(self, kind: str, ctx: Context) -> None:
        """Wait for ever; the loud kind says so first."""
        if kind == "loud":
            await ctx.progress(1, 2, "about to wait")
        await self.waits[kind].wait()

    async def talk(self, ctx: Context) -> str:
        """Say something at each of three levels, and how far it is, twice."""
        await ctx.log("debug", "low")
        await ctx.progress(0.5, 1.5)
        await ctx.log("warning", {"a": ["b"]}, logger="mine")
        await ctx.progress(1.5, 1.5, "done")
        await ctx.log("error", 7)
        return "said"

    async def stumble(self, kind: str, ctx: Context) -> None:
        """Fail on the way."""
        await ctx.progress(1)
        raise ToolError("stumbled") if kind == "tool" else HandlerFailed("stumbled")

    async def whence(self, ctx: Context) -> dict[str, Any]:
        """Tell what came with the call."""
        trace = ctx.trace
        return {
            "principal": ctx.principal,
            "trace": None if trace is None else [trace.traceparent, trace.tracestate],
            "remaining": ctx.remaining,
        }

    async def routed(
        self,
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "",
        size: Annotated[int, Field(json_schema_extra={"x-mcp-header": "Size"})] = 0,
        fast: Annotated[bool, Field(json_schema_extra={"x-mcp-header": "Fast"})] = False,
    ) -> str:
        """Want its arguments in headers too."""
        return f"{region} {size} {fast}"

    async def large(self, text: str) -> int:
        """Measure a text."""
        return len(text)

    def plain(self) -> str:
        """Some text."""
        return "some text"

    def tree(self, path: str) -> bytes:
        """Some bytes."""
        return path.encode()

    def ask(self, about: str = "life") -> str:
        """Ask something."""
        return f"What is {about}?"
