"""Locust's users, one class for each thing that clients do. Started by `run.py`, which says by the environment where
the gateway is, with which token, and how often each user asks; without a pace, as fast as answers come.

Above: `make load`. Below: `wire`. Every request can be repeated without harm, so a user does what the fabric's errors
and `Retry-After` ask of any client: it tries again until `PATIENCE` is used up, and its waiting counts as time of the
answer. How often that was is reported beside the errors.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import websocket
from locust import User, constant, constant_throughput, events, task
from wire import Wire, get, post

HOST, PORT = os.environ["LOAD_HOST"], int(os.environ["LOAD_PORT"])
PACE = float(os.environ.get("LOAD_PACE", "0"))
OUT = Path(os.environ["LOAD_OUT"])
AUTH = f"Bearer {os.environ['LOAD_TOKEN']}"
BOTH = "application/json, text/event-stream"
REVISION, SESSION_REVISION = "2026-07-28", "2025-11-25"
ABOUT = {
    "io.modelcontextprotocol/protocolVersion": REVISION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
PLAIN = {"authorization": AUTH}
EITHER = {**PLAIN, "accept": BOTH}
AS_EVENTS = {**PLAIN, "accept": "text/event-stream"}
TEXT = "the quick brown fox jumps over the lazy dog"
PATIENCE = 30.0
WAIT = 0.1
AGAIN = frozenset((429, 502, 503))
"""Statuses after which any client of ours may ask again (docs/doors.md)."""

repeated = 0
accepted: list[str] = []
"""Tasks whose start was answered, and `event` ids: looked for at the end."""
failures: list[str] = []
"""The first few, in words."""
_MOST_FAILURES = 5
cpu = 0.0


@events.test_start.add_listener
def _begin(**_: object) -> None:
    global cpu
    cpu = time.process_time()


@events.quitting.add_listener
def _end(**_: object) -> None:
    said = {"cpu": time.process_time() - cpu, "repeated": repeated, "accepted": accepted, "failures": failures}
    (OUT / "generator.json").write_text(json.dumps(said))


class Failed(Exception):
    """The last answer, or that there was none."""


class Asking(User):
    """Asks, again if need be, and tells locust how long it took."""

    abstract = True
    wait_time = constant_throughput(PACE) if PACE else constant(0)
    kind = ""

    def on_start(self) -> None:
        self.wire = Wire(HOST, PORT)

    def on_stop(self) -> None:
        self.wire.close()

    def ask(self, name: str, request: bytes, good: Callable[[int, bytes], bool]) -> bytes:
        """The body of a good answer; empty if none came."""
        return self.timed(name, lambda: self._asked(request, good))

    def timed(self, name: str, do: Callable[[], bytes]) -> bytes:
        """What `do` comes to, told to locust."""
        began, failure, body = time.perf_counter(), None, b""
        try:
            body = do()
        except Failed as failed:
            failure = failed
            if len(failures) < _MOST_FAILURES:
                failures.append(f"{name}: {failed}")
        self.environment.events.request.fire(
            request_type=self.kind,
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=len(body),
            exception=failure,
            context={},
        )
        return body

    def _asked(self, request: bytes, good: Callable[[int, bytes], bool]) -> bytes:
        global repeated
        until = time.monotonic() + PATIENCE
        while True:
            try:
                status, _, body = self.wire.ask(request)
                if good(status, body):
                    return body
                said = f"{status}: {body[:200]!r}"
                if status not in AGAIN:
                    raise Failed(said)
            except OSError as broken:
                said = repr(broken)
            if time.monotonic() > until:
                raise Failed(said)
            repeated += 1
            time.sleep(WAIT)


def _rpc(method: str, params: dict[str, object]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def _holds(wanted: bytes) -> Callable[[int, bytes], bool]:
    return lambda status, body: status == 200 and wanted in body and b'"error"' not in body


_ECHOED = _holds(TEXT.encode())


class Modern(Asking):
    """MCP of the current revision: each request stands alone."""

    kind = "mcp"
    weight = 12
    _call = _rpc("tools/call", {"name": "work_echo", "arguments": {"text": TEXT}, "_meta": ABOUT})
    request = post(
        "/mcp", _call, **EITHER, mcp_protocol_version=REVISION, mcp_method="tools/call", mcp_name="work_echo"
    )

    @task
    def echo(self) -> None:
        self.ask("modern", self.request, _ECHOED)


class Session(Asking):
    """MCP of a handshake revision: a session, used until it ends."""

    kind = "mcp"
    weight = 3

    def on_start(self) -> None:
        super().on_start()
        about = {
            "protocolVersion": SESSION_REVISION,
            "capabilities": {},
            "clientInfo": {"name": "load", "version": "1"},
        }
        hello = post("/mcp", _rpc("initialize", about), **EITHER)
        status, head, body = self.wire.ask(hello)
        if status != 200:
            raise Failed(f"{status}: {body[:200]!r}")
        at = head.index(b"mcp-session-id: ") + 16
        session = {
            "mcp_session_id": head[at : head.index(b"\r\n", at)].decode(),
            "mcp_protocol_version": SESSION_REVISION,
        }
        note = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        self.wire.ask(post("/mcp", note, **EITHER, **session))
        call = _rpc("tools/call", {"name": "work_echo", "arguments": {"text": TEXT}})
        self.request = post("/mcp", call, **EITHER, **session)

    @task
    def echo(self) -> None:
        self.ask("session", self.request, _ECHOED)


class Socket(User):
    """MCP over a WebSocket that stays open, and is opened again when it breaks."""

    kind = "mcp"
    weight = 1
    wait_time = constant_throughput(PACE) if PACE else constant(0)
    timed = Asking.timed
    _call = _rpc("tools/call", {"name": "work_echo", "arguments": {"text": TEXT}, "_meta": ABOUT}).decode()

    def on_start(self) -> None:
        self.socket: websocket.WebSocket | None = None

    def on_stop(self) -> None:
        if self.socket is not None:
            self.socket.close()

    @task
    def echo(self) -> None:
        self.timed("websocket", self._echoed)

    def _echoed(self) -> bytes:
        global repeated
        until = time.monotonic() + PATIENCE
        while True:
            try:
                if self.socket is None:
                    url, lines = f"ws://{HOST}:{PORT}/ws", [f"Authorization: {AUTH}"]
                    self.socket = websocket.create_connection(
                        url, timeout=PATIENCE, header=lines, subprotocols=["mcp"], suppress_origin=True
                    )
                self.socket.send(self._call)
                said = self.socket.recv()
                if TEXT in said and '"error"' not in said:
                    return said.encode()
            except (OSError, websocket.WebSocketException) as broken:
                said, self.socket = repr(broken), None
            if time.monotonic() > until:
                raise Failed(said[:200])
            repeated += 1
            time.sleep(WAIT)


class Tasks(Asking):
    """Starts durable tasks, and waits for the end of each."""

    kind = "task"
    weight = 2

    @task
    def run_one(self) -> None:
        start = post("/api/tasks/work_add", b'{"a": 1, "b": 2}', **PLAIN, idempotency_key=uuid4().hex)
        body = self.ask("start", start, lambda status, body: status in (200, 201, 202) and b'"taskId"' in body)
        if not body:
            return
        task_id = json.loads(body)["taskId"]
        accepted.append(task_id)
        follow = get(f"/api/tasks/{task_id}", **AS_EVENTS)
        self.ask("end", follow, lambda status, body: status == 200 and b'"completed"' in body)


class Events(Asking):
    """Publishes events, each under an id of its own."""

    kind = "event"
    weight = 2

    @task
    def publish(self) -> None:
        name = uuid4().hex
        told = json.dumps({"topic": "load.told", "data": {"text": TEXT}, "id": name}).encode()
        if self.ask("publish", post("/api/tools/durable_publish_event", told, **PLAIN), _holds(name.encode())):
            accepted.append(f"event {name}")


class Streams(Asking):
    """Follows a call as server-sent events, from its first sign of progress to its result."""

    kind = "stream"
    weight = 1
    request = post("/api/tools/work_count", b'{"to": 5}', **AS_EVENTS)

    @task
    def count(self) -> None:
        self.ask("progress", self.request, lambda status, body: status == 200 and b"event: result" in body)
