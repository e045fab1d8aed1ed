"""The platform's own agents but for the registry, side by side in one process: each for itself would cost another.

Above: `fabric up`, `fabric platform`. Below: the agents `durable`, `access`, `approvals` and `audit`. They hold
nothing, so any number of such processes share their work; each agent is found, called and listed as if it were alone.
What they are told to do is noted in the audit log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from functools import partial

from fabric.access.service import agent as access
from fabric.approvals.service import build as build_approvals
from fabric.audit.acts import noting
from fabric.audit.service import agent as audit
from fabric.audit.trail import Trail
from fabric.durable.service import agent as durable
from fabric.live import current_live
from fabric.observability.metrics import METRICS
from fabric.observability.metrics_kept import kept
from fabric.observability.metrics_worker import counted, watched
from fabric_sdk import Agent, Fabric
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.worker import Worker


def build() -> Agent:
    """What `fabric up` serves: `durable`, which brings the others with it.

    Raises:
        ConfigurationError: the policy cannot be read.
    """
    others = (access, build_approvals(), audit)
    level = current_live.get().settings.audit
    together = copy(durable)

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        trail = Trail(fabric.jetstream, "platform", level)
        writing = keep_on(trail.run, "writing the audit log")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(trail.close)
            stack.push_async_callback(end, [writing])
            await stack.enter_async_context(durable.lifespan(fabric))
            stack.callback(METRICS.ask(partial(kept, fabric)))
            for agent in others:
                noting_here = noting(trail, await agent.describe())
                worker = Worker(fabric.transport, agent, middleware=[counted, noting_here])
                await worker.start()
                await stack.enter_async_context(watched(worker))
                stack.push_async_callback(worker.drain)
            noted = noting(trail, await durable.describe())(durable.handle)
            together.handle = noted  # pyright: ignore[reportAttributeAccessIssue] - its worker is made by the pool
            yield

    together.lifespan = lifespan
    return together
