"""An agent with many tools, `echo` among them.

Above: worker processes of `ground`, the SDK's server. Below: `echo`.
"""

from __future__ import annotations

import os
from functools import partial

from fabric.bench.echo import echo
from fabric_sdk import Agent


async def other(text: str, count: int = 1, loud: bool = False) -> str:
    """Do something else with a text, as often as is said, and loud if need be."""
    return text * count + "!" * loud


def with_tools(name: str, tools: int) -> Agent:
    """An agent of this name with so many tools."""
    agent = Agent(name)
    agent.tool(annotations={"readOnlyHint": True})(echo)
    for number in range(tools - 1):
        about = f"Does the other thing number {number} with a text."
        agent.tool(name=f"other_{number}", description=about)(partial(other))
    return agent


def build() -> Agent:
    """The one that the environment describes."""
    return with_tools(os.environ["BENCH_AGENT"], int(os.environ["BENCH_TOOLS"]))
