"""`call.nats.*`: a call to a worker process over NATS, beside nats-py's own request and reply with bodies of that size.

Above: `suite`. Below: the SDK's client, `ground`. Both sides run on uvloop and go through the same nats-server.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from fabric.bench.comparison import Benchmark, Sides
from fabric.bench.drive import Call, latency, throughput
from fabric.bench.echo import TEXT, agent
from fabric.bench.floors.worker import SUBJECT, connected
from fabric.bench.ground import Ground
from fabric_sdk import Context, Fabric
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Scope
from fabric_sdk.pipeline import Request

IN_FLIGHT: Final = 64
_TIMEOUT: Final = 30.0


class _Calls(NamedTuple):
    product: Call
    floor: Call


@asynccontextmanager
async def _calls() -> AsyncGenerator[_Calls]:
    request, size = await _bodies()
    async with Ground.open() as ground:
        await ground.start_worker()
        await ground.start_floor_worker(size)
        async with Fabric.connect(ground.nats_url) as fabric:
            bare = await connected(ground.nats_url)
            try:
                client = fabric.agent(agent.name)

                async def product() -> bool:
                    return await client.call("echo", {"text": TEXT}) == TEXT

                async def floor() -> bool:
                    answer = await bare.request(SUBJECT, request, timeout=_TIMEOUT)
                    return len(answer.data) == size and answer.data.startswith(request)

                yield _Calls(product, floor)
            finally:
                await bare.close()


async def _bodies() -> tuple[bytes, int]:
    """The body of the product's request, and the size of its answer's."""
    request = Body({"name": "echo", "arguments": {"text": TEXT}})
    context = Context(Scope(time.time() + _TIMEOUT))
    answer = await agent.handle(context, Request("tools/call", request))
    return request.encoded(), len(answer.encoded())


@asynccontextmanager
async def _throughput() -> AsyncGenerator[Sides]:
    async with _calls() as calls:
        yield Sides(*(throughput(call, in_flight=IN_FLIGHT) for call in calls))


@asynccontextmanager
async def _latency() -> AsyncGenerator[Sides]:
    async with _calls() as calls:
        yield Sides(*(latency(call) for call in calls))


THROUGHPUT = Benchmark(name="call.nats.throughput", unit="calls/s", sides=_throughput)
LATENCY = Benchmark(name="call.nats.latency", unit="us", is_latency=True, sides=_latency)
