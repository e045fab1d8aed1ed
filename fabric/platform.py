"""The platform's own agents but for the registry, side by side in one process: each for itself would cost another.

Above: `fabric up`. Below: the agents `durable`, `access` and `approvals`. They hold nothing, so any number of such
processes share their work; each agent is found, called and listed as if it were alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy

from fabric.access.service import agent as access
from fabric.approvals.service import build as build_approvals
from fabric.durable.service import agent as durable
from fabric_sdk import Agent, Fabric
from fabric_sdk.worker import Worker


def build() -> Agent:
    """What `fabric up` serves: `durable`, which brings the others with it.

    Raises:
        ConfigurationError: the policy cannot be read.
    """
    others = (access, build_approvals())

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(durable.lifespan(fabric))
            for agent in others:
                worker = Worker(fabric.transport, agent)
                await worker.start()
                stack.push_async_callback(worker.drain)
            yield

    together = copy(durable)
    together.lifespan = lifespan
    return together
