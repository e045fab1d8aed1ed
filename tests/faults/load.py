"""Load as users make it: many calls in flight at once, every answer verified, every outcome kept.

It runs in a thread of its own, so that a test reads from top to bottom: start the load, break something, look.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from cli.command import Up
from support.running import Running, wait_until

from fabric_sdk import Fabric, FabricError

MILL = Path(__file__).with_name("mill.py")
VERSION = "2026-07-28"
TOOLS = {"mill_work", "mill_change", "press_work", "press_change"}
RETRYABLE = {5020, 5030, 5031, 4290}
"""Codes of the errors that say: the same call may succeed later (docs/wire.md)."""
WORK = 0.5
"""Seconds of work in each call. How many are in flight is what counts; shorter ones only keep the machine busy."""

Answer = dict[str, Any]
Ask = Callable[[str], Awaitable[Answer]]
"""Calls the tool with a text; its answer has to hold the same text."""
Client = Callable[[], AbstractAsyncContextManager[Ask]]


def measure(what: str, seconds: float) -> None:
    """Tell how long something took: to be seen with `pytest -rP`, and never a reason to fail."""
    print(f"{seconds:6.2f} s  {what}")


@dataclass
class Mill(Up):
    """A fabric with workers of `mill`."""

    done: Path
    """One line for each call of `change` that was worked on."""


class CallFailed(Exception):
    """A call was answered with an error of the fabric's; `code` says which."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call: when it began and ended (monotonic seconds), who answered, or what went wrong."""

    began: float
    ended: float
    pid: int = 0
    failure: Exception | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def retryable(self) -> bool:
        return isinstance(self.failure, CallFailed) and self.failure.code in RETRYABLE


class Load:
    """So many users, each with one call in flight at any time. Made by `load`."""

    def __init__(self, client: Client, users: int, deadline: float) -> None:
        self.outcomes: list[Outcome] = []
        self._client = client
        self._users = users
        self._deadline = deadline
        self._mark = uuid4().hex
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self._thread.start()

    def stop(self) -> list[Outcome]:
        """Let every user finish its present call; all outcomes."""
        self._stopping = True
        self._thread.join(self._deadline + 10)
        assert not self._thread.is_alive(), "a call hangs beyond its deadline"
        return self.outcomes

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure is not None]

    @property
    def pids(self) -> Counter[int]:
        """How many calls each worker process answered."""
        return Counter(outcome.pid for outcome in self.outcomes if outcome.failure is None)

    def flows(self, *, since: float | None = None, seconds: float = 20.0) -> float:
        """Wait until so many calls as there are users began after `since` (now) and were answered; how long it took."""
        since = time.monotonic() if since is None else since
        good = self._users

        def flowing() -> bool:
            # From the newest on: those that count are few and last.
            count = 0
            for outcome in reversed(self.outcomes):
                if outcome.ended < since or count >= good:
                    break
                count += outcome.failure is None and outcome.began >= since
            return count >= good

        wait_until(flowing, seconds=seconds, what="the load's flow")
        return time.monotonic() - since

    def summary(self) -> str:
        """What happened, for the message of a failed assertion."""
        slowest = max((outcome.seconds for outcome in self.outcomes), default=0.0)
        kinds = Counter(f"{type(each.failure).__name__}: {each.failure}" for each in self.failed)
        return f"{len(self.outcomes)} calls, slowest {slowest:.1f} s, failed: {dict(kinds.most_common(5))}"

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._users):
                group.create_task(self._user(number))

    async def _user(self, number: int) -> None:
        count = 0
        async with self._client() as ask:
            while not self._stopping:
                count += 1
                self.outcomes.append(await self._call(ask, f"{self._mark}-{number}-{count}"))

    async def _call(self, ask: Ask, text: str) -> Outcome:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline + 5):
                answer = await ask(text)
            if answer["text"] != text:
                raise ValueError(f"asked {text!r}, got the answer {answer!r}")
            return Outcome(began, time.monotonic(), pid=answer["pid"])
        except Exception as failure:
            if isinstance(failure, OSError):  # a real client waits a moment, too, before it connects again
                await asyncio.sleep(0.05)
            return Outcome(began, time.monotonic(), failure=failure)


@contextmanager
def load(client: Client, *, users: int = 200, deadline: float = 60.0) -> Generator[Load]:
    """Keep `users` calls in flight; begun when each user has been answered once, stopped at the end."""
    running = Load(client, users, deadline)
    try:
        running.flows()
        yield running
    finally:
        running.stop()


def http(fabric: Running, tool: str = "mill_work", *, work: float = WORK) -> Client:
    """Users of the gateway: each a plain MCP client of the current revision on a connection of its own."""

    @asynccontextmanager
    async def client() -> AsyncGenerator[Ask]:
        wire = Wire(fabric)
        try:
            yield lambda text: wire.call(tool, {"text": text, "work": work})
        finally:
            wire.close()

    return client


def sdk(fabric: Running, tool: str = "work", *, work: float = WORK, deadline: float = 60.0) -> Client:
    """Users of the SDK: each with a connection to NATS of its own."""

    @asynccontextmanager
    async def client() -> AsyncGenerator[Ask]:
        async with Fabric.connect(fabric.nats_url) as connected:
            mill = connected.agent("mill")

            async def ask(text: str) -> Answer:
                try:
                    return await mill.call(tool, {"text": text, "work": work}, timeout=deadline)
                except FabricError as failure:
                    raise CallFailed(failure.code, str(failure)) from failure

            yield ask

    return client


class Wire:
    """One keep-alive connection to a gateway, and the few lines of HTTP and JSON-RPC that a call needs."""

    def __init__(self, fabric: Running) -> None:
        self._at = urlsplit(fabric.mcp_url)
        self._token = fabric.token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._number = 0

    async def call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        """What the tool returned. Raises CallFailed for an error, OSError or EOFError for a broken connection."""
        answer = await self.ask("tools/call", {"name": tool, "arguments": arguments}, name=tool)
        return answer["structuredContent"]

    async def ask(self, method: str, params: dict[str, Any], *, name: str = "") -> Answer:
        """The result of one request."""
        self._number += 1
        envelope = {f"io.modelcontextprotocol/{key}": value for key, value in _ENVELOPE.items()}
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": {**params, "_meta": envelope}}
        try:
            answer = json.loads(await self._post(method, name, json.dumps(request).encode()))
        except BaseException:
            self.close()  # whatever is still on its way belongs to a request that nobody waits for
            raise
        if "error" in answer:
            raise CallFailed(answer["error"]["code"], answer["error"]["message"])
        if answer["id"] != self._number:
            raise ValueError(f"the answer is to {answer['id']}, not to {self._number}")
        return answer["result"]

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _post(self, method: str, name: str, body: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._at.hostname, self._at.port)
        reader, writer = self._streams
        lines = [
            f"POST {self._at.path} HTTP/1.1",
            f"Host: {self._at.netloc}",
            f"Authorization: Bearer {self._token}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"MCP-Protocol-Version: {VERSION}",
            f"Mcp-Method: {method}",
            *([f"Mcp-Name: {name}"] if name else []),
            f"Content-Length: {len(body)}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        return _last_event(await _chunks(reader))


async def tools(fabric: Running) -> set[str]:
    """The names of all tools that a client of the gateway sees now."""
    wire = Wire(fabric)
    try:
        return {tool["name"] for tool in (await wire.ask("tools/list", {}))["tools"]}
    finally:
        wire.close()


_ENVELOPE = {"protocolVersion": VERSION, "clientCapabilities": {}, "clientInfo": {"name": "load", "version": "1"}}


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks: what a stream of server-sent events comes as."""
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _last_event(stream: bytes) -> bytes:
    """The answer is the last event of a stream; before it there may be signs of life."""
    return [line for line in stream.splitlines() if line.startswith(b"data: ")][-1].removeprefix(b"data: ")
