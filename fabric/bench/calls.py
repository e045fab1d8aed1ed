"""`call.nats.*` and `call.host.*`: a call to a worker process, beside nats-py's own request and reply of that size.

Above: `suite`. Below: the SDK's client, `ground`. All sides run on uvloop. `nats` goes through the same nats-server as
the floor, as between hosts; `host` takes the sockets that processes of one host have for each other.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
from fabric_sdk.transports.nats import NatsTransport

IN_FLIGHT: Final = 64
_TIMEOUT: Final = 30.0


_Connect = Callable[[str], AbstractAsyncContextManager[Fabric]]


class _Calls(NamedTuple):
    product: Call
    floor: Call


@asynccontextmanager
async def _over_nats(url: str) -> AsyncGenerator[Fabric]:
    transport = await NatsTransport.connect(url)
    try:
        async with Fabric.over(transport) as fabric:
            yield fabric
    finally:
        await transport.close()


@asynccontextmanager
async def _calls(connected_to: _Connect) -> AsyncGenerator[_Calls]:
    request, size = await _bodies()
    async with Ground.open() as ground:
        await ground.start_worker()
        await ground.start_floor_worker(size)
        async with connected_to(ground.nats_url) as fabric:
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


def _benchmarks(way: str, connected_to: _Connect) -> tuple[Benchmark, Benchmark]:
    @asynccontextmanager
    async def many() -> AsyncGenerator[Sides]:
        async with _calls(connected_to) as calls:
            yield Sides(*(throughput(call, in_flight=IN_FLIGHT) for call in calls))

    @asynccontextmanager
    async def one() -> AsyncGenerator[Sides]:
        async with _calls(connected_to) as calls:
            yield Sides(*(latency(call) for call in calls))

    return (
        Benchmark(name=f"call.{way}.throughput", unit="calls/s", sides=many),
        Benchmark(name=f"call.{way}.latency", unit="us", is_latency=True, sides=one),
    )


THROUGHPUT, LATENCY = _benchmarks("nats", _over_nats)
HOST_THROUGHPUT, HOST_LATENCY = _benchmarks("host", Fabric.connect)
