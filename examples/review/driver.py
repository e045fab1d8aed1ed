"""A plain MCP client: has every source file of a tree linted and measured, many calls at once, and reports.

    FABRIC_TOKEN=… python examples/review/driver.py http://127.0.0.1:8420/mcp

Above: `demo.py`, or a person. Below: the official MCP SDK over Streamable HTTP, and `report.py`. It knows an MCP
server with three tools, and nothing of what is behind it: workers that die and come back are none of its business.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, cast

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from report import Answer, Review, complaints, console, show
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

LIST: Final = "reader_list"
REVIEWS: Final = ("linter_lint", "metrics_measure")
"""Each file goes through each of these."""

AT_ONCE: Final = 32
_CALL_SECONDS: Final = 60.0
_START_SECONDS: Final = 15.0


class Unusable(Exception):
    """The MCP server is gone, or it is not one that reviews."""


@asynccontextmanager
async def connected(url: str, token: str | None) -> AsyncGenerator[Client]:
    """A client of the MCP server at `url`.

    Raises:
        Unusable: it cannot be reached, or no longer; also, what `review` says of it.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx2.Limits(max_connections=AT_ONCE * 2, max_keepalive_connections=AT_ONCE * 2)
    try:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=_CALL_SECONDS, limits=limits) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            yield client
    except ExceptionGroup as failures:  # the SDK serves a connection by several tasks; any of them may have failed
        raise _cause(failures) from failures


def _cause(failures: ExceptionGroup[Exception]) -> Exception:
    """The first thing that went wrong."""
    first = failures.exceptions[0]
    if isinstance(first, ExceptionGroup):
        return _cause(cast("ExceptionGroup[Exception]", first))
    return Unusable(f"the MCP server cannot be reached: {first}") if isinstance(first, httpx2.HTTPError) else first


async def review(client: Client, *, half_way: Callable[[], None] = lambda: None) -> Review:
    """Have every file reviewed by every tool; `half_way` is called once, when half of the answers are there.

    Raises:
        Unusable: the server does not list sources.
    """
    await _tools_listed(client)
    found = await _answer(client, LIST, {}, "")
    if found.value is None:
        raise Unusable(f"the sources could not be listed: {found.problem}")
    paths: list[str] = found.value["paths"]
    return await _Run(client, paths, half_way).all()


@dataclass
class _Run:
    """One review under way."""

    client: Client
    paths: list[str]
    half_way: Callable[[], None]
    answers: list[Answer] = field(default_factory=list[Answer])

    async def all(self) -> Review:
        """Every call, `AT_ONCE` of them at any time."""
        calls = iter([(tool, path) for path in self.paths for tool in REVIEWS])
        total = len(self.paths) * len(REVIEWS)
        began = time.monotonic()
        with _progress() as progress:
            task = progress.add_task("reviewing", total=total)

            def done(answer: Answer) -> None:
                self.answers.append(answer)
                progress.advance(task)
                if len(self.answers) == (total + 1) // 2:
                    self.half_way()

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._some(calls, done))
        return Review(self.paths, REVIEWS, self.answers, time.monotonic() - began, AT_ONCE)

    async def _some(self, calls: Iterator[tuple[str, str]], done: Callable[[Answer], None]) -> None:
        """One call after the other, until none are left."""
        for tool, path in calls:
            done(await _answer(self.client, tool, {"path": path}, path))


async def _answer(client: Client, tool: str, arguments: dict[str, Any], path: str) -> Answer:
    """One call, timed. A call that fails is a line of the report and not the end of the review."""
    began = time.monotonic()
    value, problem = None, None
    try:
        result = await client.call_tool(tool, arguments)
        if result.is_error or result.structured_content is None:
            problem = " ".join(block.text for block in result.content if block.type == "text") or "an empty answer"
        else:
            value = result.structured_content
    except Exception as failure:
        problem = f"{type(failure).__name__}: {failure}"
    return Answer(tool, path, began, time.monotonic() - began, value, problem)


async def _tools_listed(client: Client) -> None:
    """Wait for the tools: the pools behind the server may still be starting."""
    deadline = time.monotonic() + _START_SECONDS
    for attempt in count(1):
        listed = {tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools}
        if not (missing := {LIST, *REVIEWS} - listed):
            return
        if time.monotonic() > deadline:
            raise Unusable(f"after {attempt} looks, the server still has no {', '.join(sorted(missing))}")
        await asyncio.sleep(0.1)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("reviewing"), BarColumn(), MofNCompleteColumn(), TextColumn("calls"))
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)


async def _main(url: str) -> bool:
    async with connected(url, os.environ.get("FABRIC_TOKEN")) as client:
        return show(await review(client))


def main() -> int:
    parser = argparse.ArgumentParser(description="Review the tree behind an MCP server; FABRIC_TOKEN is the token.")
    parser.add_argument("url", help="of the MCP server")
    try:
        return 0 if asyncio.run(_main(parser.parse_args().url)) else 1
    except Unusable as unusable:
        complaints.print(f"[red]error:[/] {escape(str(unusable))}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
