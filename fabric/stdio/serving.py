"""One host served: until it closes one of the pipes, or a signal comes.

Above: `fabric mcp`. Below: `bridge`, `pipes`.
"""

from __future__ import annotations

import asyncio
import signal

from fabric.stdio.bridge import Bridge
from fabric.stdio.gateway import LONGEST, Gateway
from fabric.stdio.pipes import Host, standard_streams
from fabric_sdk.cancelling import end


async def serve(gateway: Gateway) -> None:
    """Pass on between standard input and output and this gateway; then end the session, and close all."""
    async with standard_streams(LONGEST) as host:
        bridge = Bridge(gateway, host.say)
        ends = [asyncio.create_task(each) for each in (_hear(host, bridge), host.closed(), _told_to_stop())]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end(ends)
            await bridge.close()
            await gateway.close()


async def _hear(host: Host, bridge: Bridge) -> None:
    async for line in host.lines():
        bridge.hear(line)


async def _told_to_stop() -> None:
    told = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, told.set)
    await told.wait()
