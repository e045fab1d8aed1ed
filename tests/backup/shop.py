"""An agent whose work leaves traces: a file with a line for each time that something was done."""

from __future__ import annotations

import os
from pathlib import Path

from fabric_sdk import Agent, Policy, Reject

agent = Agent("shop", version="1.0.0")
closed = Agent("closed", version="1.0.0")
"""Nobody works there until the drill is over."""


def note(item: str) -> None:
    """Add a line."""
    with Path(os.environ["SHOP_BOOK"]).open("a") as book:
        book.write(f"{item}\n")


@closed.tool(task=Policy(attempts=3))
@agent.tool(task=Policy(attempts=3))
async def order(item: str) -> str:
    """Note an order."""
    note(item[:16])
    return f"{item} is on its way"


@agent.tool(task=Policy(attempts=1))
async def spoil(item: str) -> None:
    """Fail for good."""
    raise Reject(f"{item} is spoilt")
