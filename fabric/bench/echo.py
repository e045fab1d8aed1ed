"""The agent that benchmarks call: it does nothing, so that all that is measured is the way to it and back.

Above: the benchmarks, and `many`, which gives it more tools. Below: the SDK, as every author has it.
"""

from __future__ import annotations

from typing import Final

from fabric_sdk import Agent, Stream

TEXT: Final = "the quick brown fox jumps over the lazy dog"

agent = Agent("echo", version="1.0.0", description="Says things back.")


@agent.tool(annotations={"readOnlyHint": True})
async def echo(text: str) -> str:
    """Say it back."""
    return text


@agent.stream
async def count(stream: Stream) -> None:
    """Says how many messages came."""
    counted = 0
    async for _ in stream:
        counted += 1
    await stream.send(counted)
