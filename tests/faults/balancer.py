"""A plain balancer: each connection goes to the next gateway that takes it, and nothing is known of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

from support.nats_server import HOST


@asynccontextmanager
async def balancer(ports: Sequence[int]) -> AsyncGenerator[int]:
    """Balances over `ports`, round robin; yields the port it listens on."""
    turns, pumps = count(), set[asyncio.Task[None]]()

    async def upstream() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for turn in turns:
            with suppress(OSError):
                return await asyncio.open_connection(HOST, ports[turn % len(ports)])
        raise AssertionError("the turns never end")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await upstream()
        for pair in ((reader, back), (there, writer)):
            task = asyncio.create_task(pump(*pair))
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    server = await asyncio.start_server(serve, HOST, 0, backlog=2048)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(pumps):
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
