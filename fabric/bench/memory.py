"""`call.memory`: a call within one process, beside the least that can run a handler on its own: a task.

Above: `suite`. Below: the SDK over its in-process transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fabric.bench.comparison import Benchmark, Sides
from fabric.bench.drive import throughput
from fabric.bench.echo import TEXT, agent, echo
from fabric_sdk import Fabric
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker


@asynccontextmanager
async def _sides() -> AsyncGenerator[Sides]:
    transport = MemoryTransport()
    worker = Worker(transport, agent)
    await worker.start()
    try:
        async with Fabric.over(transport) as fabric:
            client = fabric.agent(agent.name)

            async def product() -> bool:
                return await client.call("echo", {"text": TEXT}) == TEXT

            async def floor() -> bool:
                return await asyncio.create_task(echo(TEXT)) == TEXT

            yield Sides(throughput(product, in_flight=1), throughput(floor, in_flight=1))
    finally:
        await worker.drain()


MEMORY = Benchmark(name="call.memory", unit="calls/s", sides=_sides)
