"""Standard input and output as streams of lines.

Above: `serving`, `fabric mcp`. Below: asyncio's pipes. A line that is too long is passed over as it comes, and takes no
memory.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from fabric_sdk.contracts.errors import ConfigurationError

_INPUT: Final = 0
_OUTPUT: Final = 1


@dataclass(frozen=True, slots=True)
class Host:
    """The program at the other end of both."""

    _input: asyncio.StreamReader
    _output: asyncio.StreamWriter
    _end_of_output: asyncio.StreamReader

    async def lines(self) -> AsyncIterator[bytes | None]:
        """Each line that the host writes, `None` for one that is too long, until it closes its end."""
        too_long = False
        while True:
            try:
                line = await self._input.readuntil(b"\n")
            except asyncio.LimitOverrunError as overrun:
                await self._input.readexactly(overrun.consumed)
                too_long = True
                continue
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            if too_long:
                yield None
            elif stripped := line.strip():
                yield stripped
            too_long = False

    async def say(self, line: bytes) -> None:
        """Write a line; waits while the host reads slowly. Nothing happens once it reads no more."""
        with suppress(ConnectionError):
            self._output.write(line + b"\n")
            await self._output.drain()

    async def closed(self) -> None:
        """Return when the host reads no more."""
        await self._end_of_output.read()


def require_pipes() -> None:
    """Look at both streams. Before uvloop does: it aborts the process where it cannot wait for one, or finds it closed.

    Raises:
        ConfigurationError: one of them is a file, or closed.
    """
    if not (_is_pipe(_INPUT) and _is_pipe(_OUTPUT)):
        raise ConfigurationError(
            "standard input and output have to be pipes",
            fix="let a host start it: `fabric mcp --config claude` prints what one needs",
        )


@asynccontextmanager
async def standard_streams(limit: int) -> AsyncGenerator[Host]:
    """Both streams, which `require_pipes` has looked at, for lines of at most `limit` bytes."""
    loop = asyncio.get_running_loop()
    lines, end_of_output = asyncio.StreamReader(limit), asyncio.StreamReader()
    source, sink = os.fdopen(_INPUT, "rb", 0), os.fdopen(_OUTPUT, "wb", 0)
    reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), source)
    # The same protocol for the way out, as asyncio has no public one that only writes: what it reads is the end.
    writing, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(end_of_output), sink)
    try:
        yield Host(lines, asyncio.StreamWriter(writing, protocol, None, loop), end_of_output)
    finally:
        reading.close()
        writing.close()


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
