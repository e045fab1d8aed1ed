"""A way to a server that can be cut for those who go through it, and for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

HOST = "127.0.0.1"


class Way:
    """A TCP proxy. Made by `way_to`."""

    def __init__(self, there: int) -> None:
        self.port = 0
        self._there = there
        self._whole = True
        self._swallows = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    def swallow(self) -> None:
        """Take what both sides send from now on, and pass nothing on; nobody is told."""
        self._swallows = True

    def cut(self) -> None:
        """Break every connection, and let nobody in until `mend`."""
        self._whole = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Let everybody in again."""
        self._whole, self._swallows = True, False

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        task = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Break every connection, and be done."""
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        beyond, there = await asyncio.open_connection(HOST, self._there)
        self._writers |= {writer, there}
        await asyncio.gather(self._copy(reader, there), self._copy(beyond, writer))
        self._writers -= {writer, there}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self._swallows:
                    writer.write(data)
                    await writer.drain()
        writer.close()


@asynccontextmanager
async def way_to(port: int) -> AsyncGenerator[Way]:
    """A way to `port` on this host."""
    way = Way(port)
    server = await asyncio.start_server(way.take, HOST, 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        await way.close()
        await server.wait_closed()
