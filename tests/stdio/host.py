"""A host that writes each line as its test wants it, and holds the bridge to write nothing but messages."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cli.command import BARE
from gateway.client import Json, request
from support.running import FABRIC

SECONDS = 15.0
LIMIT = 32 * 1024 * 1024


def environment(**more: str) -> dict[str, str]:
    """What a host gives to the programs it starts: little, and no fabric."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "COVERAGE_PROCESS_START") if name in os.environ}
    return {"PATH": BARE["PATH"], "HOME": BARE.get("HOME", "/"), "XDG_STATE_HOME": os.devnull, **kept, **more}


class Host:
    """One `fabric mcp`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log = b""
        """What it wrote on standard error, once it has ended."""

    @staticmethod
    @asynccontextmanager
    async def of(*arguments: str | Path, stdout: int = PIPE, **env: str) -> AsyncGenerator[Host]:
        """A host that has started `fabric mcp` with these arguments; `stdout`: where that writes to."""
        process = await asyncio.create_subprocess_exec(
            *(FABRIC, "mcp", *arguments), stdin=PIPE, stdout=stdout, stderr=PIPE, limit=LIMIT, env=environment(**env)
        )
        try:
            yield Host(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()  # closes the pipes

    async def write(self, *lines: bytes) -> None:
        """Write lines, whatever they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(line + b"\n" for line in lines))
        await self.process.stdin.drain()

    async def send(self, *messages: Json) -> None:
        """Write messages."""
        await self.write(*(json.dumps(message, ensure_ascii=False).encode() for message in messages))

    async def read(self) -> Json:
        """The next message."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = await self.process.stdout.readline()
        assert line.endswith(b"\n"), f"it ended after {line!r}"
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0", message
        return message

    async def ask(self, method: str, params: Json | None = None, *, number: Any = 1) -> Json:
        """The answer to a request of the current revision, which nothing may come ahead of."""
        await self.send(request(method, params, number=number))
        return await self.answer(number)

    async def ask_in_session(self, method: str, params: Json | None = None, *, number: Any = 1) -> Json:
        """The answer to a request of a handshake revision."""
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
        return await self.answer(number)

    async def answer(self, number: Any = 1) -> Json:
        """The next message but for words that lists have changed; it has to be the answer to this request."""
        message = await self.read()
        while str(message.get("method")).endswith("/list_changed"):
            message = await self.read()
        assert message.get("id", "none") == number, message
        return message

    async def call(self, tool: str, *, number: Any = 1, **arguments: Any) -> Json:
        """The result of a tool."""
        answer = await self.ask("tools/call", {"name": tool, "arguments": arguments}, number=number)
        return answer["result"]

    async def shake_hands(self, revision: str = "2025-11-25") -> Json:
        """Open a session; the server's side of it."""
        said = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = await self.ask_in_session("initialize", said, number="hello")
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer["result"]

    async def end(self) -> int:
        """Close its standard input; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.ended()

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            self.log = await self.process.stderr.read()
            return await self.process.wait()
