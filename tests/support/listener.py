"""Something that listens on a port and is not the server that a client looks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

HOST = "127.0.0.1"


@dataclass
class Listener:
    """Something on a port that is no NATS server."""

    port: int = 0
    greeted: int = 0


@asynccontextmanager
async def listener(
    greeting: bytes, *, port: int = 0, answer: bytes = b"", stay: bool = True
) -> AsyncGenerator[Listener]:
    """Greet, answer each line in the same way, and stay connected or not."""
    listening, handlers = Listener(), set[asyncio.Task[None]]()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listening.greeted += 1
        try:
            writer.write(greeting)
            while stay and await reader.readline():
                writer.write(answer)
                await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(talk(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_server(handle, HOST, port)
    listening.port = server.sockets[0].getsockname()[1]
    try:
        yield listening
    finally:
        server.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()
