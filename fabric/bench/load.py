"""Load over HTTP: wrk with 32 connections that repeats one tools/call and looks into every answer.

Above: `gateway`, `everything`. Below: wrk, the program, and `tools_call.lua`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
from pathlib import Path
from typing import Final

from fabric.bench.comparison import BenchmarkFailed, Measure, Sample
from fabric.bench.echo import TEXT
from fabric_sdk.contracts.errors import ConfigurationError

CONNECTIONS: Final = 32
_SCRIPT: Final = Path(__file__).with_name("tools_call.lua")
_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
}
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "wrk", "version": "4"},
    "io.modelcontextprotocol/clientCapabilities": dict[str, str](),
}


def require_wrk() -> str:
    """The path of wrk.

    Raises:
        ConfigurationError: it is not installed.
    """
    if (program := shutil.which("wrk")) is None:
        raise ConfigurationError(
            "the load generator wrk is not installed", fix="install it with: sudo apt-get install wrk"
        )
    return program


def load(url: str, *, tool: str, token: str = "") -> Measure:
    """Calls per second of `tool` at `url`."""
    asked = {"name": tool, "arguments": {"text": TEXT}, "_meta": _META}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked}
    lines = _HEADERS | {"Mcp-Name": tool, "Authorization": f"Bearer {token}"}
    env = {**os.environ, "BENCH_TEXT": TEXT, "BENCH_BODY": json.dumps(call, separators=(",", ":"))}
    env["BENCH_HEADERS"] = "".join(f"{name}: {value}\n" for name, value in lines.items())

    async def measure(seconds: float) -> Sample:
        duration = f"{math.ceil(seconds)}s"  # wrk knows whole seconds only
        process = await asyncio.create_subprocess_exec(
            *(require_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{duration}", "--timeout", "10s", "-s", str(_SCRIPT), url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _read(output.decode(errors="replace"), process.returncode)

    return measure


def _read(output: str, code: int | None) -> Sample:
    """The sample in what wrk printed."""
    last = output.rpartition("\n")[2].split(" ", 5)
    if code != 0 or len(last) != 6:
        raise BenchmarkFailed(f"wrk ended with code {code}: {output.strip()[-400:]}")
    requests, microseconds, wrong, broken = map(int, last[:4])  # then the median, and the first wrong answer
    if wrong or broken or not requests:
        raise BenchmarkFailed(f"of {requests} answers {wrong} were wrong, {broken} did not come; first: {last[5]}")
    return Sample(requests / microseconds * 1e6, requests)
