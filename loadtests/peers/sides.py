"""The product and its peers, each started with an echo tool behind it, from PyPI and from this repository.

Above: `run`. Below: their own commands. Each peer has an upstream of its own, so that its requests can be counted.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil

HERE = Path(__file__).resolve().parent
TEXT = f"the quick brown fox {secrets.token_hex(8)}"
"""Another one each time, so that no answer holds it by chance."""
MODERN, HANDSHAKE = "2026-07-28", "2025-06-18"
PACKAGES = {"fastmcp": "fastmcp", "contextforge": "mcp-contextforge-gateway"}
READY_SECONDS = 90.0
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@dataclass(frozen=True)
class Side:
    """One endpoint, and the request that calls its echo."""

    name: str
    version: str
    url: str
    tool: str
    count: Callable[[], int]
    """Requests that have reached its upstream."""
    arguments: dict[str, str] = field(default_factory=lambda: {"text": TEXT})
    revision: str = MODERN
    headers: dict[str, str] = field(default_factory=dict[str, str])

    processes: list[psutil.Process] = field(default_factory=list[psutil.Process])
    """All that a call passes, the upstream among them."""

    def cpu_seconds(self) -> float:
        """Processor time that its processes have used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    @property
    def body(self) -> bytes:
        params: dict[str, Any] = {"name": self.tool, "arguments": self.arguments}
        if self.revision == MODERN:
            about = {"clientInfo": {"name": "wrk", "version": "4"}, "clientCapabilities": {}}
            meta = {"protocolVersion": MODERN, **about}
            params["_meta"] = {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()}
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()

    @property
    def lines(self) -> dict[str, str]:
        lines = {**JSON, **self.headers, "mcp-protocol-version": self.revision}
        return lines | ({"mcp-method": "tools/call", "mcp-name": self.tool} if self.revision == MODERN else {})


def ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=30) as answer:
        return answer.read()


def until(ready: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it is true, or end with the log."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if ready():
                return
        except (URLError, OSError, ValueError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{process.args} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Ground:
    """The environments of the peers, and the processes that run."""

    def __init__(self, folder: Path, python: str, stack: ExitStack) -> None:
        self.folder, self.python, self.stack = folder, python, stack
        self.run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))

    def environment(self, name: str) -> Path:
        """The Python of a peer, installed if it is not there."""
        home = self.folder / name
        if not (home / "installed").exists():
            print(f"installing {PACKAGES[name]} …", file=sys.stderr)
            subprocess.run([self.python, "-m", "venv", "--clear", home], check=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, PACKAGES[name]], check=True)
            (home / "installed").touch()
        return home / "bin" / "python"

    def version(self, name: str) -> str:
        """Of a peer, and of the Python that runs it."""
        say = (
            f"import platform; from importlib.metadata import version; print(version({PACKAGES[name]!r}), 'on Python',"
        )
        return subprocess.check_output(
            [self.environment(name), "-c", f"{say} platform.python_version())"], text=True
        ).strip()

    def start(self, command: list[Any], ready: Callable[[], object], env: dict[str, str] | None = None) -> None:
        """Start a program in the folder of this run, ended with it, and return when it is ready."""
        log = self.run / f"log-{time.monotonic_ns()}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(map(str, command)), cwd=self.run, env={**os.environ, **(env or {})}, stdout=output, stderr=output
            )
        self.stack.enter_context(ended(process))
        until(ready, process, log)

    def side(self, make: Callable[[Ground], Side]) -> Side:
        """A side that runs, and knows its processes."""
        me = psutil.Process()
        before = set(me.children(recursive=True))
        side = make(self)
        return replace(side, processes=list(set(me.children(recursive=True)) - before))

    def upstream(self) -> tuple[str, Callable[[], int]]:
        """An echo server of its own for a peer: its URL, and how many requests it got."""
        port = free_port()
        at = f"http://127.0.0.1:{port}"
        python = self.environment("fastmcp")
        self.start([python, HERE / "echo_server.py", port], lambda: ask(f"{at}/count"))
        return f"{at}/mcp", lambda: int(ask(f"{at}/count"))


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Generator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def product(ground: Ground) -> Side:
    ready = ground.run / "ready.json"
    up = [Path(sys.executable).with_name("fabric"), "up", "--ephemeral", "--anonymous", "--port", "0"]
    ground.start(
        [*up, "--ready-file", ready, HERE / "echo_agent.py"], ready.exists, {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    url = json.loads(ready.read_text())["mcp_url"]
    counter = Side("", "", url, "echo_count", lambda: 0, {})
    asked = 0

    def count() -> int:
        nonlocal asked
        asked += 1  # to ask is a request, too
        return json.loads(ask(url, counter.body, counter.lines))["result"]["structuredContent"]["result"] - asked

    return Side("product", f"on Python {sys.version.split()[0]}", url, "echo_echo", count)


def direct(ground: Ground) -> Side:
    url, count = ground.upstream()
    return Side("no gateway (upstream itself)", ground.version("fastmcp"), url, "echo", count)


def fastmcp(ground: Ground, kind: str) -> Side:
    upstream, count = ground.upstream()
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    side = Side(f"FastMCP proxy, {kind}", ground.version("fastmcp"), url, "echo", count)
    command = [ground.environment("fastmcp"), HERE / "fastmcp_proxy.py", kind, upstream, port]
    ground.start(command, lambda: TEXT.encode() in ask(url, side.body, side.lines))
    return side


def contextforge(ground: Ground) -> Side:
    python = ground.environment("contextforge")
    upstream, count = ground.upstream()
    port = free_port()
    at = f"http://127.0.0.1:{port}"
    subprocess.run([python, "-m", "mcpgateway.scripts.init_secrets"], cwd=ground.run, check=True, capture_output=True)
    made = [line.partition("=") for line in (ground.run / ".env.secrets").read_text().splitlines() if "=" in line]
    env = {name: value for name, _, value in made if not name.startswith("#")} | {
        "PLATFORM_ADMIN_EMAIL": "admin@example.com",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "RATE_LIMITING_ENABLED": "false",
        "MCPGATEWAY_UI_ENABLED": "false",
        "MCPGATEWAY_ADMIN_API_ENABLED": "true",
        "LOG_LEVEL": "ERROR",
    }
    command = [python.with_name("mcpgateway"), "--host", "127.0.0.1", "--port", port]
    ground.start(command, lambda: ask(f"{at}/health"), env)
    make = [python, "-m", "mcpgateway.utils.create_jwt_token", "--username", "admin@example.com", "--exp", "600"]
    said = subprocess.check_output([*make, f"--secret={env['JWT_SECRET_KEY']}"], cwd=ground.run, env=os.environ | env)
    bearer = {"authorization": f"Bearer {said.decode().split()[-1]}"}

    def tell(path: str, body: dict[str, Any] | None = None) -> Any:
        return json.loads(ask(at + path, json.dumps(body).encode() if body else None, JSON | bearer))

    tell("/gateways", {"name": "echo", "url": upstream, "transport": "STREAMABLEHTTP"})
    (tool,) = tell("/tools")
    server = tell("/servers", {"server": {"name": "e", "description": "e", "associated_tools": [tool["id"]]}})
    url = f"{at}/servers/{server['id']}/mcp"
    return Side(
        "ContextForge", ground.version("contextforge"), url, tool["name"], count, revision=HANDSHAKE, headers=bearer
    )
