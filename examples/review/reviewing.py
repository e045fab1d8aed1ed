"""What the agents that review share: how they get at a source, and how they sign what they say.

Above: `linter.py`, `metrics.py`. Below: the fabric, where an agent called `reader` is served somewhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

from fabric_sdk import Context


@dataclass
class Reviewer:
    """Which worker did it."""

    agent: str
    instance: str
    pid: int

    @classmethod
    def of(cls, ctx: Context) -> Reviewer:
        """The worker that handles this call."""
        return cls(ctx.agent, ctx.instance, os.getpid())


async def source_of(path: str, ctx: Context) -> str:
    """The text of a source, read from the agent `reader`: a call between agents, under the deadline of this one."""
    contents = await ctx.fabric.agent("reader").read(f"source://{quote(path)}")
    return contents[0]["text"]
