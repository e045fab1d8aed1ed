"""An agent with many tools: `BENCH_TOOLS` says how many, `BENCH_AGENT` what it is called; `echo` is among them.

Above: worker processes of `ground`. Below: `echo`.
"""

from __future__ import annotations

import os
from functools import partial

from fabric.bench.echo import echo
from fabric_sdk import Agent

agent = Agent(os.environ["BENCH_AGENT"])
agent.tool(annotations={"readOnlyHint": True})(echo)


async def other(text: str, count: int = 1, loud: bool = False) -> str:
    """Do something else with a text, as often as is said, and loud if need be."""
    return text * count + "!" * loud


for number in range(int(os.environ["BENCH_TOOLS"]) - 1):
    agent.tool(name=f"other_{number}", description=f"Does the other thing number {number} with a text.")(partial(other))
