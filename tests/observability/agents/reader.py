"""An agent whose tools use an instrumented library, need two attempts, publish events and react to them."""

from __future__ import annotations

from opentelemetry.trace import get_tracer

from fabric_sdk import Agent, Context, Policy

agent = Agent("reader")
library = get_tracer("some-library")


@agent.tool(annotations={"readOnlyHint": True})
async def read(ctx: Context, secret: str) -> str:
    """Do it with a library that knows OpenTelemetry and nothing of the fabric."""
    with library.start_as_current_span("open file"):
        return "text" if ctx.trace is not None else "no trace"


@agent.tool(task=Policy(attempts=3, first_wait=0.01))
async def index(ctx: Context, secret: str) -> str:
    """Fail once, then tell that it is done."""
    assert ctx.task is not None
    if ctx.task.attempt == 1:
        raise ValueError(f"cannot index {secret}")
    await ctx.fabric.publish("texts.indexed", {"secret": secret})
    return "indexed"


@agent.on("texts.*")
async def note(secret: str = "") -> None:
    """React."""
