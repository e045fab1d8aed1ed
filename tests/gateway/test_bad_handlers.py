"""Handlers that end badly: the caller gets a clear answer, the worker goes on, and the next call works.

Proves: PT-1, RT-6, CM-2
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.running import FABRIC, Running
from support.waiting import eventually

from gateway.client import Client, Json, events, tools
from gateway.conftest import CALL_TIMEOUT

LONER = """
from fabric_sdk import Agent

agent = Agent("loner")


@agent.tool
async def ok() -> int:
    return 1
"""


@pytest.fixture(scope="module")
async def strict(strict_fabric: Running) -> AsyncGenerator[Client]:
    async with Client.to(strict_fabric.mcp_url, strict_fabric.token) as client:
        yield client


async def answer(client: Client, tool: str, **arguments: Any) -> Json:
    """The whole answer to a call: its result, or its error with the HTTP status."""
    response = await client.ask("tools/call", {"name": tool, "arguments": arguments})
    is_stream = response.headers["content-type"] == "text/event-stream"  # a call of many seconds becomes one
    body: Json = events(response.text)[-1] if is_stream else response.json()
    return body["result"] if "result" in body else {**body["error"], "status": response.status_code}


async def worker(client: Client) -> int:
    """The process of a worker of the victim's pool: it still works."""
    return (await client.call("victim_ok"))["structuredContent"]["result"]


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("raise_group", "ExceptionGroup: two"),
        ("raise_with_bytes", "RuntimeError: line one\r\nline two \x00 é ?xxx"),
        ("leave", "SystemExit: 3"),
        ("leave_from_a_thread", "SystemExit: enough"),
    ],
)
async def test_what_a_handler_raises_is_told_in_a_result(strict: Client, tool: str, said: str) -> None:
    result = await answer(strict, f"victim_{tool}")
    assert result["isError"] is True
    assert said in result["content"][0]["text"]
    await worker(strict)


@pytest.mark.parametrize("tool", ["wrong_type", "unencodable", "huge_integer", "broken_text", "endless"])
async def test_what_cannot_be_encoded_is_an_error_that_says_so(strict: Client, tool: str) -> None:
    error = await answer(strict, f"victim_{tool}")
    assert (error["code"], error["status"]) == (-32603, 200)
    assert error["message"]
    await worker(strict)


async def test_a_number_that_json_has_not_becomes_null_or_an_error(strict: Client) -> None:
    found = await answer(strict, "victim_not_a_number")
    assert found.get("code") == -32603 or found["structuredContent"] == {"value": None}


async def test_an_answer_that_the_broker_does_not_take_is_an_error_that_says_so(strict: Client) -> None:
    error = await answer(strict, "victim_too_large")
    assert (error["code"], error["status"]) == (-32603, 200)
    assert "too large" in error["message"]
    await worker(strict)


async def test_a_handler_that_cancels_itself_is_answered(strict: Client) -> None:
    error = await answer(strict, "victim_cancel")
    assert (error["code"], error["status"]) == (-32603, 200)
    await worker(strict)


async def test_the_second_worker_does_what_killed_the_first_if_that_does_no_harm(
    strict: Client, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    result = await answer(strict, "victim_die_once", mark=str(mark))
    assert mark.exists()
    assert isinstance(result["structuredContent"]["result"], int)


async def test_a_handler_that_cannot_be_cancelled_holds_up_nobody_else(strict: Client) -> None:
    """Two workers, three calls in threads that nothing can end: other calls go on, and these end when they do."""
    calls = [asyncio.create_task(answer(strict, "victim_stubborn")) for _ in range(3)]
    for _ in range(20):
        await worker(strict)
    assert not [call for call in calls if call.done()]
    for ended in await asyncio.gather(*calls):
        assert (ended.get("isError", False), ended["content"]) == (False, []), ended


@asynccontextmanager
async def pool(running: Running, folder: Path) -> AsyncGenerator[None]:
    """A pool of the agent `loner` while the block runs; SIGTERM ends it."""
    module, log, ready = folder / "loner.py", folder / "log", folder / "ready"
    module.write_text(LONER)
    with log.open("ab") as output:
        command = (FABRIC, "worker", module, "--ready-file", ready)
        process = await asyncio.create_subprocess_exec(*command, env=running.env, stdout=output, stderr=output)
    try:
        await eventually(lambda: ready.exists() and "loner_ok" in tools(running), seconds=30, what="the pool")
        yield
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0, log.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_calls_that_hang_or_kill_or_find_nobody_end_with_an_error_and_the_pools_go_on(
    strict: Client, strict_fabric: Running, tmp_path: Path
) -> None:
    """Three errors that take their time, awaited at once."""
    async with pool(strict_fabric, tmp_path):
        assert (await answer(strict, "loner_ok"))["structuredContent"] == {"result": 1}
    assert "loner_ok" in tools(strict_fabric), "a restart must not empty a client's list"
    waiting = asyncio.create_task(answer(strict, "loner_ok"))
    async with pool(strict_fabric, tmp_path):
        assert (await waiting)["structuredContent"] == {"result": 1}, "a call waits for a pool that restarts"

    async def timed(tool: str) -> tuple[Json, float]:
        started = time.monotonic()
        return await answer(strict, tool), time.monotonic() - started

    hung, died, found_nobody = await asyncio.gather(timed("hello_hang"), timed("victim_die"), timed("loner_ok"))
    error, seconds = hung
    assert (error["code"], error["status"]) == (5040, 200)
    assert "deadline" in error["message"]
    assert CALL_TIMEOUT - 1 < seconds < CALL_TIMEOUT + 3
    error, seconds = died
    assert (error["code"], error["status"]) == (5020, 200)
    assert "worker" in error["message"]
    assert seconds < CALL_TIMEOUT
    error, seconds = found_nobody
    assert (error["code"], error["status"]) == (5030, 200)
    assert "loner" in error["message"]
    assert "fabric worker" in error["message"]
    assert seconds < CALL_TIMEOUT
    assert all([_is_running(await worker(strict)) for _ in range(20)])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_what_ends_badly_leaves_the_rest_of_the_platform_as_it_was(strict_fabric: Running) -> None:
    for name in ("gateway", "registry-1", "nats-server", "valkey-server"):
        assert _is_running(strict_fabric.pids[name]), name
    names = tools(strict_fabric)
    assert json.dumps(sorted(names)) == json.dumps(names)
