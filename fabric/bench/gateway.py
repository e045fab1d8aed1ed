"""`gateway.*`: a tools/call over HTTP through the gateway and NATS to a worker, beside the bare libraries and the SDK.

Above: `suite`. Below: `ground`, `load`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fabric.bench.comparison import Benchmark, Sides
from fabric.bench.ground import Ground
from fabric.bench.load import load


@asynccontextmanager
async def _beside_bare_forwarding() -> AsyncGenerator[Sides]:
    async with Ground.open() as ground:
        await ground.start_worker()
        gateway = await ground.start_gateway()
        await ground.start_floor_worker(0)
        floor = await ground.start_floor_server("forward")
        yield Sides(load(gateway.url, tool="echo_echo", token=gateway.token), load(floor, tool="echo"))


@asynccontextmanager
async def _beside_the_sdk() -> AsyncGenerator[Sides]:
    async with Ground.open() as ground:
        await ground.start_worker()
        gateway = await ground.start_gateway()
        floor = await ground.start_floor_server("sdk")
        yield Sides(load(gateway.url, tool="echo_echo", token=gateway.token), load(floor, tool="echo"))


@asynccontextmanager
async def _beside_itself_unobserved() -> AsyncGenerator[Sides]:
    async with Ground.open() as watched, Ground.open(OTEL_SDK_DISABLED="true") as unwatched:
        await watched.start_worker()
        await unwatched.start_worker()
        seen, unseen = await watched.start_gateway({"trace_sampling": "0.1"}), await unwatched.start_gateway()
        yield Sides(
            load(seen.url, tool="echo_echo", token=seen.token), load(unseen.url, tool="echo_echo", token=unseen.token)
        )


TOOLS_CALL = Benchmark(name="gateway.tools_call", unit="calls/s", sides=_beside_bare_forwarding, needs_wrk=True)
VS_SDK = Benchmark(name="gateway.vs_sdk", unit="calls/s", sides=_beside_the_sdk, needs_wrk=True)
OBSERVED = Benchmark(name="gateway.observed", unit="calls/s", sides=_beside_itself_unobserved, needs_wrk=True)
"""One call in ten traced, beside none; metrics are counted on both sides."""
